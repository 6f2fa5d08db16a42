"""Ratios of times, and the memory that a call needs."""

from __future__ import annotations

import ctypes
import statistics
from collections.abc import Callable
from pathlib import Path

import torch

from espnet_hjprune.alternation import alternate

# glibc's option, whose value grows to 32 MiB by itself where nothing sets it.
_MMAP_THRESHOLD = -3
# Sides of the square matrices whose product shows what a device can do: some milliseconds.
PRODUCT_SIZE = {"cpu": 1024, "cuda": 8192}


def median_ratio(seconds: list[float], reference: list[float]) -> float:
    """Median over the rounds of ``reference / seconds``: how many times faster, round by round."""
    return statistics.median(r / s for s, r in zip(seconds, reference, strict=True))


def peak_memory(run: Callable[[], object], device: str = "cpu") -> int | None:
    """Bytes that a call needs at its peak beyond what was in use before.

    On a GPU they are those of tensors. On the CPU it is the resident memory of the process, as
    Linux counts it; ``None`` on other systems.
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


def reserved_memory(run: Callable[[], object], device: str = "cpu") -> int | None:
    """Bytes that torch takes from a GPU for a call, at the peak beyond what it had before.

    They are more than those of the tensors, as no tensor fits all gaps. The call is made twice, as
    the first one leaves gaps to the second. ``None`` on the CPU.
    """
    if device == "cpu":
        return None
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_reserved()
    for _ in range(2):
        run()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_reserved() - before


def product_rate(device: str, dtype: torch.dtype, repeats: int = 5) -> float:
    """Operations per second of one large matrix product, two for each multiply-accumulate.

    Args:
        device: ``cpu`` or ``cuda``.
        dtype: of the matrices.
        repeats: products, of which the fastest counts.
    """
    size = PRODUCT_SIZE[device]
    left, right = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    result = torch.empty_like(left)
    runs = {"product": lambda: torch.mm(left, right, out=result)}
    return 2 * size**3 / min(alternate(runs, repeats, device=device)["product"])


def _memory(name: str) -> int:
    """A figure of this process in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    (line,) = (line for line in lines if line.startswith(f"{name}:"))
    return int(line.split()[1]) * 1024
