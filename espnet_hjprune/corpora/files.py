"""Files of a corpus, without those that desktops and editors leave between them."""

from __future__ import annotations

from pathlib import Path


def visible(directory: Path, pattern: str) -> list[Path]:
    """Paths below a directory that match a pattern of :meth:`Path.glob`, sorted.

    What begins with a dot is left out, and so is what lies in such a directory: ``._x.flac`` of
    macOS, ``.ipynb_checkpoints``, ``.DS_Store``.
    """
    return sorted(
        path
        for path in directory.glob(pattern)
        if not any(part.startswith(".") for part in path.relative_to(directory).parts)
    )
