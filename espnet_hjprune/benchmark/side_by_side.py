"""Latency of a compact architecture beside the dense one's, on the machine at hand."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from espnet_hjprune.alternation import alternate
from espnet_hjprune.benchmark.machine import describe
from espnet_hjprune.benchmark.timing import median_ratio
from espnet_hjprune.constants import SAMPLE_RATE
from espnet_hjprune.nn.config import EncoderConfig
from espnet_hjprune.nn.encoder import SpeechEncoder


def side_by_side(
    dense: EncoderConfig,
    compact: EncoderConfig,
    rounds: int,
    *,
    device: str = "cpu",
    dtype: str = "float32",
    seconds: float = 10.0,
    batch: int = 1,
    threads: int | None = None,
) -> dict[str, Any]:
    """Time encoders of two architectures with random weights, which are as fast as any, in turn.

    Args:
        dense: one architecture.
        compact: the other.
        rounds: timed passes of each.
        device: ``cpu`` or ``cuda``.
        dtype: of the weights.
        seconds: length of the audio.
        batch: utterances.
        threads: of the CPU; ``None`` for as many as torch has now.

    Returns:
        Median seconds ``dense`` and ``actual``, the median ``speed_up`` of all rounds, and what
        they were measured with.
    """
    samples = round(seconds * SAMPLE_RATE)
    with _threads(threads), torch.random.fork_rng(devices=[]), torch.inference_mode():
        wave = 0.1 * torch.randn(batch, samples, device=device)
        lengths = torch.full((batch,), samples, device=device)
        encoders = {
            name: SpeechEncoder(config).to(device, getattr(torch, dtype)).eval()
            for name, config in (("dense", dense), ("actual", compact))
        }
        runs = {
            name: (lambda encoder=encoder: encoder(wave, lengths))
            for name, encoder in encoders.items()
        }
        times = alternate(runs, rounds, device=device)
        machine = describe(device, dtype)
    return {
        "machine": machine,
        "seconds": seconds,
        "batch": batch,
        "dense": statistics.median(times["dense"]),
        "actual": statistics.median(times["actual"]),
        "speed_up": median_ratio(times["actual"], times["dense"]),
    }


@contextmanager
def _threads(number: int | None) -> Iterator[None]:
    """Let torch use so many CPU threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(number or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)
