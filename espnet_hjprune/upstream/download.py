"""Checkpoints that s3prl downloads: their addresses, and the download."""

from __future__ import annotations

import ast
import importlib.util
from pathlib import Path

from espnet_hjprune.errors import HJPruneError


def address_of(package: str, name: str) -> str:
    """Where s3prl has an upstream's own checkpoint from, read from the text of its package.

    Some names stand for another one, and some have a second checkpoint for fairseq, which is
    named first.

    Args:
        package: s3prl's package, below ``s3prl.upstream``.
        name: an upstream of it that brings its own checkpoint.

    Raises:
        HJPruneError: s3prl does not say.
    """
    spec = importlib.util.find_spec("s3prl")
    assert spec is not None and spec.submodule_search_locations
    hubconf = Path(spec.submodule_search_locations[0], "upstream", package, "hubconf.py")
    tree = ast.parse(hubconf.read_text(encoding="utf-8"))
    functions = {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef)}
    wanted = name
    while wanted in functions:
        nodes = sorted(ast.walk(functions.pop(wanted)), key=lambda node: getattr(node, "lineno", 0))
        addresses = [
            node.value
            for node in nodes
            if isinstance(node, ast.Constant) and str(node.value).startswith("http")
        ]
        if addresses:
            return str(addresses[-1])
        called = [node.func for node in nodes if isinstance(node, ast.Call)]
        wanted = next((function.id for function in called if isinstance(function, ast.Name)), "")
    raise HJPruneError(f"s3prl does not say where it has the upstream {name} from; name another")


def download(url: str, download_dir: str | None, remedy: str) -> Path:
    """Let s3prl download a file, unless it has done so before.

    Args:
        url: where it is.
        download_dir: where downloads are kept; ``None`` for s3prl's own place.
        remedy: what the user can do without a network, for the message.

    Raises:
        HJPruneError: the download failed.
    """
    import s3prl.util.download as downloads

    if download_dir is not None:
        downloads.set_dir(download_dir)
    try:
        return Path(downloads.urls_to_filepaths(url))
    except Exception as error:
        # s3prl tries two libraries, each with errors of its own.
        reason = " ".join(str(error).split())[:200]
        raise HJPruneError(f"{url} cannot be downloaded ({reason}); {remedy}") from error
