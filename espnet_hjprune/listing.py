"""Some of many: names in messages, and items that stand for all."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")
# Names that a message has, of all that it is about.
NAMED = 5


def named(names: Sequence[str]) -> str:
    """The first names, separated by commas, and dots for others."""
    return ", ".join(names[:NAMED]) + (", ..." if len(names) > NAMED else "")


def evenly(items: Sequence[T], count: int) -> list[T]:
    """At most ``count`` items, evenly spread over all of them, in order."""
    count = min(count, len(items))
    return [items[index * len(items) // count] for index in range(count)]
