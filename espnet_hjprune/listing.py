"""Lists in messages."""

from __future__ import annotations

from collections.abc import Sequence

# Names that a message has, of all that it is about.
NAMED = 5


def named(names: Sequence[str]) -> str:
    """The first names, separated by commas, and dots for others."""
    return ", ".join(names[:NAMED]) + (", ..." if len(names) > NAMED else "")
