"""Files and directories that are either old, or new and complete."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replaced_file(path: str | Path) -> Iterator[Path]:
    """Give a temporary name to write; the file takes the place of ``path`` when all went well."""
    path = Path(path)
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    try:
        yield partial
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def replaced_directory(target: str | Path) -> Iterator[Path]:
    """Give an empty directory to fill; it takes the place of ``target`` when all went well.

    After an error nothing of it is left and ``target`` is as it was. What a killed run leaves
    behind is removed by the next one.
    """
    target = Path(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    try:
        yield temporary
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    if target.exists():
        shutil.rmtree(target)
    temporary.rename(target)


def write_text(path: str | Path, content: str) -> None:
    """Write ``content`` as UTF-8; the directory is made where it is missing."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with replaced_file(path) as partial:
        partial.write_text(content, encoding="utf-8")
