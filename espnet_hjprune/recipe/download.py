"""Archives from the web: resumable download, checksum, and unpacking in one piece."""

from __future__ import annotations

import hashlib
import http.client
import logging
import shutil
import tarfile
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from espnet_hjprune.errors import HJPruneError
from espnet_hjprune.recipe.librispeech import BASE_URL, PARTS, Part

BLOCK = 1 << 20
TIMEOUT = 60.0
ATTEMPTS = 5


def md5_sum(path: Path) -> str:
    """The MD5 sum of a file, in hexadecimal."""
    digest = hashlib.md5(usedforsecurity=False)
    with path.open("rb") as file, _progress(path.stat().st_size, 0, f"md5 {path.name}") as bar:
        while block := file.read(BLOCK):
            digest.update(block)
            bar.update(len(block))
    return digest.hexdigest()


def _progress(total: int, start: int, description: str) -> tqdm:
    """A progress bar that counts bytes."""
    return tqdm(total=total, initial=start, desc=description, unit="B", unit_scale=True)


def _transfer(url: str, partial: Path, size: int) -> None:
    """Fetch what ``partial`` lacks of ``size`` bytes, or all if the server cannot resume.

    Raises:
        OSError: The server refuses, or the connection ended early.
    """
    have = partial.stat().st_size if partial.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    with urllib.request.urlopen(request, timeout=TIMEOUT) as response:
        if response.status != http.client.PARTIAL_CONTENT:
            have = 0
        with (
            partial.open("ab" if have else "wb") as file,
            _progress(size, have, partial.name) as bar,
        ):
            while block := response.read(BLOCK):
                file.write(block)
                bar.update(len(block))
    if partial.stat().st_size < size:
        raise ConnectionError(f"only {partial.stat().st_size} of {size} bytes came")


def fetch(url: str, target: Path, size: int, md5: str) -> None:
    """Download ``url`` to ``target``, going on where an earlier try stopped.

    Args:
        url: Where the file is.
        target: Where it goes; it gets this name only after its checksum was right.
        size: Its size in bytes.
        md5: Its MD5 sum.

    Raises:
        HJPruneError: The server does not give the file, it is not the expected one, or the disk is
            too small.
    """
    if target.exists():
        if target.stat().st_size == size and md5_sum(target) == md5:
            return
        raise HJPruneError(f"{target} is not the file of {url} (MD5 {md5}); remove it")
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f"{target.name}.part")
    for attempt in range(1, ATTEMPTS + 1):
        have = partial.stat().st_size if partial.exists() else 0
        if have >= size:
            break
        if shutil.disk_usage(target.parent).free < size - have:
            raise HJPruneError(
                f"{target.parent} has not the {size / 1e9:.1f} GB that {url} needs; make room or "
                "set LIBRISPEECH in db.sh to another disk"
            )
        try:
            _transfer(url, partial, size)
        except (OSError, http.client.HTTPException) as error:
            refused = isinstance(error, urllib.error.HTTPError) and error.code < 500
            if refused or attempt == ATTEMPTS:
                raise HJPruneError(
                    f"{url} cannot be downloaded ({error}); run the stage again, or put the file "
                    f"at {target} yourself"
                ) from None
            logging.warning("%s: %s; attempt %d of %d", url, error, attempt, ATTEMPTS)
            time.sleep(2 * attempt)
    if md5_sum(partial) != md5:
        partial.unlink()
        raise HJPruneError(f"what came from {url} has not the MD5 sum {md5}; run the stage again")
    partial.replace(target)


def _unpack(archive: Path, part: str, directory: Path) -> None:
    """Unpack ``LibriSpeech/<part>`` and the text files beside it into ``directory``."""
    temporary = directory / f".{part}.tmp"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        logging.info("unpacking %s", archive)
        with tarfile.open(archive) as tar:
            tar.extractall(temporary, filter="data")
        corpus = directory / "LibriSpeech"
        corpus.mkdir(exist_ok=True)
        for path in (temporary / "LibriSpeech").glob("*.TXT"):
            path.replace(corpus / path.name)
        # Last, because a part that is there counts as complete.
        (temporary / "LibriSpeech" / part).rename(corpus / part)
    except (tarfile.TarError, OSError, EOFError) as error:
        raise HJPruneError(f"{archive} cannot be unpacked: {error}") from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def download_librispeech(
    directory: Path,
    parts: Sequence[str] = tuple(PARTS),
    base_url: str = BASE_URL,
    catalogue: dict[str, Part] = PARTS,
) -> None:
    """Complete ``directory/LibriSpeech``: parts that are there already stay as they are.

    Archives stay in ``directory``; one that is there already is used.

    Raises:
        HJPruneError: See :func:`fetch`.
    """
    directory.mkdir(parents=True, exist_ok=True)
    for part in parts:
        if (directory / "LibriSpeech" / part).is_dir():
            logging.info("%s is there already", directory / "LibriSpeech" / part)
            continue
        archive = directory / f"{part}.tar.gz"
        fetch(f"{base_url}/{archive.name}", archive, catalogue[part].bytes, catalogue[part].md5)
        _unpack(archive, part, directory)
