"""Files from the web: resumable download, checksums, and unpacking of archives."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import json
import logging
import lzma
import shutil
import tarfile
import time
import urllib.error
import urllib.request
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from espnet_hjprune.atomic import scratch_directory
from espnet_hjprune.errors import HJPruneError
from espnet_hjprune.progress import progress_bar

# Bytes read at a time: few enough for a smooth progress bar.
BLOCK = 1 << 20
# Seconds that a server may be silent.
TIMEOUT = 60.0
# What an archive may unpack to: audio compresses to a half or a quarter, transcripts to a tenth.
# Small archives may be all text; the floors are for those.
LARGEST_RATIO, SMALLEST_LIMIT = 20, 100 << 20
# Bytes of an archive for each of its files, whose header alone takes more, and the floor.
BYTES_PER_FILE, SMALLEST_COUNT = 30, 10_000
# Tries of a file, with pauses of 2, 4, ... seconds between them.
ATTEMPTS = 5


@dataclass(frozen=True)
class RemoteFile:
    """A file on the web.

    Attributes:
        url: where it is.
        bytes: its size.
        checksum: ``md5:`` or ``sha256:`` and this sum of it, or ``git:`` and the SHA-1 of the git
            blob it is.
    """

    url: str
    bytes: int
    checksum: str


def has_checksum(path: Path, checksum: str) -> bool:
    """Whether a file has a checksum of the forms that :class:`RemoteFile` takes."""
    kind, _, expected = checksum.partition(":")
    size = path.stat().st_size
    if kind == "git":
        digest = hashlib.sha1(f"blob {size}\0".encode(), usedforsecurity=False)
    else:
        digest = hashlib.new(kind, usedforsecurity=False)
    with path.open("rb") as file, _progress(size, 0, f"checksum {path.name}") as bar:
        while block := file.read(BLOCK):
            digest.update(block)
            bar.update(len(block))
    return digest.hexdigest() == expected


def _progress(total: int, start: int, description: str) -> tqdm:
    """A progress bar that counts bytes."""
    return progress_bar(total=total, initial=start, desc=description, unit="B", unit_scale=True)


def fetch_json(url: str) -> Any:
    """Download a small JSON document.

    Raises:
        HJPruneError: the server does not give it, or it is no JSON.
    """
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT) as response:
            return json.load(response)
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise HJPruneError(
            f"{url} cannot be read ({error}); run the stage again, or get the corpus yourself and "
            "name its directory in db.sh"
        ) from None


def _transfer(url: str, partial: Path, size: int) -> None:
    """Fetch what ``partial`` lacks of ``size`` bytes, or all if the server cannot resume.

    Raises:
        OSError: the server refuses, or the connection ended early.
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


def fetch(remote: RemoteFile, path: Path) -> None:
    """Download a file to ``path``, going on where an earlier try stopped.

    The file gets its name only after its checksum was right.

    Raises:
        HJPruneError: the server does not give the file, it is not the expected one, or the disk is
            too small.
    """
    url, size = remote.url, remote.bytes
    if path.exists():
        if path.stat().st_size == size and has_checksum(path, remote.checksum):
            return
        raise HJPruneError(f"{path} is not the file of {url} ({remote.checksum}); remove it")
    path.parent.mkdir(parents=True, exist_ok=True)
    # Kept after an error, other than what atomic.py writes: the next try goes on with it.
    partial = path.with_name(f"{path.name}.part")
    for attempt in range(1, ATTEMPTS + 1):
        have = partial.stat().st_size if partial.exists() else 0
        if have >= size:
            break
        if shutil.disk_usage(path.parent).free < size - have:
            raise HJPruneError(
                f"{path.parent} has not the {size / 1e9:.1f} GB that {url} needs; make room, or "
                "name a directory of another disk in db.sh"
            )
        try:
            _transfer(url, partial, size)
        except (OSError, http.client.HTTPException) as error:
            refused = isinstance(error, urllib.error.HTTPError) and error.code < 500
            if refused or attempt == ATTEMPTS:
                raise HJPruneError(
                    f"{url} cannot be downloaded ({error}); run the stage again, or put the file "
                    f"at {path} yourself"
                ) from None
            logging.warning("%s: %s; attempt %d of %d", url, error, attempt, ATTEMPTS)
            time.sleep(2 * attempt)
    if not has_checksum(partial, remote.checksum):
        partial.unlink()
        raise HJPruneError(
            f"what came from {url} has not the checksum {remote.checksum}; run the stage again"
        )
    partial.replace(path)


@contextlib.contextmanager
def unpacked(archive: Path) -> Iterator[Path]:
    """Give a temporary directory beside ``archive`` with its content, to be moved elsewhere.

    Only files, directories and links within it are unpacked. The content may take
    ``LARGEST_RATIO`` times the archive's size or ``SMALLEST_LIMIT`` bytes, whichever is more, and
    have a file for each ``BYTES_PER_FILE`` bytes of the archive, or ``SMALLEST_COUNT`` files.

    Raises:
        HJPruneError: the archive cannot be unpacked, would write elsewhere or more than that, or
            lacks what the caller moves.
    """
    with scratch_directory(archive.with_name(f".{archive.name}.tmp")) as content:
        try:
            logging.info("unpacking %s", archive)
            with tarfile.open(archive) as tar:
                tar.extractall(content, filter=_Limits(archive))
            yield content
        except (tarfile.TarError, OSError, EOFError, zlib.error, lzma.LZMAError) as error:
            raise HJPruneError(f"{archive} cannot be unpacked: {error}") from None


class _Limits:
    """A filter of ``tarfile`` that stops at what no honest archive holds."""

    def __init__(self, archive: Path) -> None:
        size = archive.stat().st_size
        self.archive = archive
        self.bytes = max(LARGEST_RATIO * size, SMALLEST_LIMIT)
        self.files = max(size // BYTES_PER_FILE, SMALLEST_COUNT)

    def __call__(self, member: tarfile.TarInfo, path: str) -> tarfile.TarInfo:
        if member.name.startswith("/"):
            # It would be unpacked below the directory instead.
            raise tarfile.AbsolutePathError(member)
        self.bytes -= member.size
        self.files -= 1
        if self.bytes < 0 or self.files < 0:
            raise HJPruneError(
                f"{self.archive} would unpack to far more than its size lets expect; it is damaged "
                "or made to fill the disk: remove it, and get it from elsewhere"
            )
        return tarfile.data_filter(member, path)
