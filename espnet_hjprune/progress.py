"""Progress bars on a terminal, and now and then a line where the output goes to a file."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any

from tqdm import tqdm

# Between two lines: a log of a day stays short, and nobody waits long for a sign of life.
LINE_SECONDS = 20.0


def progress_bar(iterable: Iterable[Any] | None = None, **options: Any) -> tqdm:
    """Make a :class:`tqdm.tqdm`, which is sparing where nobody watches.

    Args:
        iterable: what to iterate over; ``None`` for a bar that is updated by hand.
        options: of :class:`tqdm.tqdm`.
    """
    if not sys.stderr.isatty():
        options = {"mininterval": LINE_SECONDS, "ascii": True, "ncols": 80, **options}
    return tqdm(iterable, **options)
