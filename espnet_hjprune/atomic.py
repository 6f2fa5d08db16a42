"""Files and directories that are either old, or new and complete."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from espnet_hjprune.errors import HJPruneError


@contextmanager
def replaced_file(path: str | Path) -> Iterator[Path]:
    """Give a temporary name to write; the file takes the place of ``path`` when all went well.

    After an error nothing of it is left and ``path`` is as it was. The directory must be there.
    """
    path = Path(path)
    # The process's number keeps two runs that write the same file apart.
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    try:
        yield partial
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def scratch_directory(path: str | Path) -> Iterator[Path]:
    """Make an empty directory called ``path`` that is gone afterwards, whatever happened.

    What a killed run left under this name is removed first. Its parents are made where missing.
    """
    path = Path(path)
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir(parents=True)
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


@contextmanager
def replaced_directory(path: str | Path) -> Iterator[Path]:
    """Give an empty directory to fill; it takes the place of ``path`` when all went well.

    After an error nothing of it is left and ``path`` is as it was. What a killed run leaves
    behind is removed by the next one.

    Raises:
        HJPruneError: ``path`` is a link; what it leads to is not ours to replace.
    """
    path = Path(path)
    if path.is_symlink():
        raise HJPruneError(f"{path} is a link and would be replaced; remove it first")
    with scratch_directory(path.with_name(f".{path.name}.tmp")) as temporary:
        yield temporary
        if path.exists():
            shutil.rmtree(path)
        temporary.rename(path)


def write_text(path: str | Path, content: str) -> None:
    """Write ``content`` as UTF-8; the directory is made where it is missing."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with replaced_file(path) as partial:
        partial.write_text(content, encoding="utf-8")
