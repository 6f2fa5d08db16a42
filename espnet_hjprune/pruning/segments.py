"""Sums over consecutive parts of a flat tensor."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

import torch


class Segments:
    """Parts of given sizes, one after another.

    Neighbours of one size are summed up together, which for a dense encoder leaves one operation
    for each kind of unit.
    """

    def __init__(self, sizes: Sequence[int]) -> None:
        self._runs = [(size, len(list(run))) for size, run in groupby(sizes)]
        self._lengths = [size * count for size, count in self._runs]

    def sums(self, values: torch.Tensor) -> torch.Tensor:
        """Sum of every part of ``(all values,)``, ``(parts,)``."""
        parts = values.split(self._lengths)
        return torch.cat(
            [values[:0]]
            + [
                part.view(count, size).sum(1)
                for part, (size, count) in zip(parts, self._runs, strict=True)
            ]
        )
