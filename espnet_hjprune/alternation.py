"""Times of several functions that take turns, so that what else the machine does hits them all."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

import torch

Runs = Mapping[str, Callable[[], object]]


def alternate(
    runs: Runs,
    repeats: int,
    warm_up: int = 1,
    device: str = "cpu",
    after_round: Callable[[], object] = lambda: None,
) -> dict[str, list[float]]:
    """Call the functions in turn and return the seconds of every call.

    Args:
        runs: the functions by name.
        repeats: timed rounds; in every other one the order is reversed.
        warm_up: rounds before that are not timed.
        device: ``cuda`` waits for the GPU before and after every call.
        after_round: called after every round, for a progress bar.
    """
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    names = list(runs)
    for number in range(-warm_up, repeats):
        for name in names if number % 2 == 0 else reversed(names):
            synchronise(device)
            start = time.perf_counter()
            runs[name]()
            synchronise(device)
            if number >= 0:
                seconds[name].append(time.perf_counter() - start)
        after_round()
    return seconds


def synchronise(device: str) -> None:
    """Wait until a GPU has done what it was asked for."""
    if device == "cuda":
        torch.cuda.synchronize()
