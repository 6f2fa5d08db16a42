"""Ratios of times, and the memory that a call needs."""

from __future__ import annotations

import ctypes
import statistics
from collections.abc import Callable
from pathlib import Path

import torch

from espnet_hjprune.alternation import Runs, alternate

__all__ = ["Runs", "alternate", "median_ratio", "peak_memory"]

# glibc's option, whose value grows to 32 MiB by itself where nothing sets it.
_MMAP_THRESHOLD = -3


def median_ratio(seconds: list[float], reference: list[float]) -> float:
    """Median over the rounds of ``reference / seconds``: how many times faster, round by round."""
    return statistics.median(r / s for s, r in zip(seconds, reference, strict=True))


def peak_memory(run: Callable[[], object], device: str = "cpu") -> int | None:
    """Bytes that a call needs at its peak beyond what was in use before.

    On the CPU it is the resident memory of the process, as Linux counts it; ``None`` elsewhere.
    """
    if device != "cpu":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    try:
        libc = ctypes.CDLL(None)
        # What earlier calls freed must go back to the system first, or this one would reuse it.
        libc.malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")
        # Tensors get pages of their own, as gaps between them would count.
        libc.mallopt(_MMAP_THRESHOLD, 1 << 16)
    except (AttributeError, OSError):
        return None
    before = _memory("VmRSS")
    try:
        run()
    finally:
        libc.mallopt(_MMAP_THRESHOLD, 1 << 25)
    return _memory("VmHWM") - before


def _memory(name: str) -> int:
    """A figure of this process in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    (line,) = (line for line in lines if line.startswith(f"{name}:"))
    return int(line.split()[1]) * 1024
