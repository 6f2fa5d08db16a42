"""Overlapping windows over audio that is too long to be attended to at once."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Window:
    """Frames ``start`` to ``stop`` are read, of which ``begin`` to ``end`` are kept."""

    start: int
    stop: int
    begin: int
    end: int

    @property
    def kept(self) -> slice:
        """The frames to keep of those that are read."""
        return slice(self.begin - self.start, self.end - self.start)


@dataclass(frozen=True)
class Windows:
    """How frames are covered by windows.

    Attributes:
        size: frames of a window; what has no more is one window.
        overlap: frames that a window shares with the next, at least.
    """

    size: int
    overlap: int

    def cover(self, frames: int) -> list[Window]:
        """Windows over so many frames, each of which is kept once.

        All are of one size, and the last ends with the frames. Neighbours keep half of what they
        share, so that every frame that is kept has seen ``overlap / 2`` frames on both sides.

        Example:
            >>> [(w.start, w.stop, w.begin, w.end) for w in Windows(6, 2).cover(11)]
            [(0, 6, 0, 5), (4, 10, 5, 7), (5, 11, 7, 11)]
        """
        last = max(0, frames - self.size)
        starts = [*range(0, last, self.size - self.overlap), last]
        stops = [min(start + self.size, frames) for start in starts]
        borders = [(start + stop) // 2 for start, stop in zip(starts[1:], stops, strict=False)]
        return [
            Window(*window)
            for window in zip(starts, stops, [0, *borders], [*borders, frames], strict=True)
        ]
