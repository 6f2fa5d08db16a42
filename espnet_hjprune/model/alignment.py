"""``round_to: auto``: widths of compact models that are fast on the device at hand.

What is fast depends on the kernels of a CPU or GPU, so it is measured: encoders that random gates
have pruned with different alignments take turns.
"""

from __future__ import annotations

import itertools
import logging
import statistics
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import replace
from functools import partial

import torch

from espnet_hjprune.alternation import alternate
from espnet_hjprune.errors import HJPruneError
from espnet_hjprune.nn.config import EncoderConfig
from espnet_hjprune.nn.encoder import SpeechEncoder
from espnet_hjprune.precision import inference_dtype
from espnet_hjprune.pruning.config import PruningConfig
from espnet_hjprune.pruning.pruner import Pruner
from espnet_hjprune.pruning.slicing import compact_encoder

CANDIDATES = (1, 8, 16, 32, 64)
# How much slower than the fastest a smaller alignment may be.
TOLERANCE = 0.03
# Rounds that are timed, and the seconds that they should not exceed.
FEWEST, MOST, BUDGET = 3, 15, 10.0
# How unequal random gates are: between the layers and within them.
LAYER_SPREAD, UNIT_SPREAD = 1.0, 1.0

_device: ContextVar[torch.device | None] = ContextVar("device", default=None)


@contextmanager
def measuring_on(device: str) -> Iterator[None]:
    """Measure alignments on this device, wherever the encoders are; an outer block goes before."""
    token = _device.set(_device.get() or torch.device(device))
    try:
        yield
    finally:
        _device.reset(token)


def aligned(options: PruningConfig, config: EncoderConfig, device: torch.device) -> PruningConfig:
    """The options with a number as ``round_to``.

    ``auto`` is measured for one utterance of the options' ``seconds``, in the type that decoding
    has. Processes that train together get the number of the first.

    Args:
        options: of a pruning.
        config: the dense architecture.
        device: where to measure outside of :func:`measuring_on`.

    Raises:
        HJPruneError: the target cannot be met, or the device is not there.
    """
    if options.round_to != "auto":
        return options
    device = _device.get() or device
    shared = torch.distributed.is_available() and torch.distributed.is_initialized()
    found: list[int | HJPruneError | None] = [None]
    if not shared or torch.distributed.get_rank() == 0:
        try:
            found = [fastest_alignment(config, options, device, inference_dtype(device))]
        except HJPruneError as error:
            found = [error]
    if shared:
        # The others wait for the number, or for the reason why there is none.
        torch.distributed.broadcast_object_list(found)
    if isinstance(found[0], HJPruneError):
        raise found[0]
    assert found[0] is not None
    return replace(options, round_to=found[0])


def fastest_alignment(
    config: EncoderConfig,
    options: PruningConfig,
    device: torch.device,
    dtype: torch.dtype = torch.float32,
    batch: int = 1,
) -> int:
    """Measure encoders of all alignments that meet the target, and choose one.

    Args:
        config: the dense architecture.
        options: target, criterion and units of the pruning, and the ``seconds`` of the audio.
        device: where to measure.
        dtype: type of the weights.
        batch: utterances.

    Returns:
        The number that :func:`choose` finds.

    Raises:
        HJPruneError: the target cannot be met, or the device is not there.
    """
    if device.type == "cuda" and not torch.cuda.is_available():
        raise HJPruneError(
            "pruning.round_to is auto, but there is no GPU here to measure on; give a number such "
            "as 32, or run this where the GPU is"
        )
    # A rerun with the number must draw the same random numbers.
    with torch.random.fork_rng(devices=[]):
        encoders = _encoders(config, options)
    for encoder in encoders.values():
        encoder.to(device, dtype).eval()
    # Silence would be computed faster in some kernels.
    wave = torch.randn(batch, options.samples, generator=torch.Generator().manual_seed(0))
    wave = wave.to(device)
    lengths = torch.full((batch,), options.samples, device=device)
    runs = {str(n): partial(encoder, wave, lengths) for n, encoder in encoders.items()}
    with torch.inference_mode():
        first = alternate(runs, 1, warm_up=0, device=device.type)
        affordable = int(BUDGET / sum(itertools.chain(*first.values())))
        rounds = min(max(affordable, FEWEST), MOST)
        seconds = alternate(runs, rounds, warm_up=0, device=device.type)
    number = choose({int(name): times for name, times in seconds.items()})
    for name, times in seconds.items():
        took = ", ".join(f"{1000 * second:.1f}" for second in sorted(times))
        logging.info("round_to %s: %s ms on %s", name, took, device)
    logging.info("round_to is auto: %d is used", number)
    return number


def choose(seconds: Mapping[int, Sequence[float]]) -> int:
    """The smallest alignment whose median time is within 3 % of the fastest."""
    medians = {number: statistics.median(times) for number, times in seconds.items()}
    limit = (1 + TOLERANCE) * min(medians.values())
    return min(number for number, median in medians.items() if median <= limit)


def _encoders(config: EncoderConfig, options: PruningConfig) -> dict[int, SpeechEncoder]:
    """Compact encoders by their alignments."""
    dense = SpeechEncoder(config)
    found: dict[int, SpeechEncoder] = {}
    for number in CANDIDATES:
        try:
            found[number] = prune_at_random(dense, replace(options, round_to=number))
        except HJPruneError:
            # Small models cannot meet all targets in large steps.
            if not found:
                raise
    return found


def prune_at_random(encoder: SpeechEncoder, options: PruningConfig, seed: int = 0) -> SpeechEncoder:
    """Meet the final target by random gates, which remove more from some layers than from others.

    Args:
        encoder: a dense encoder; it is not changed.
        options: of the pruning.
        seed: of the gates.

    Raises:
        HJPruneError: the target cannot be met.
    """
    options = replace(options, ramp_steps=0, earlier_targets=[])
    pruner = Pruner(encoder.config, options).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        log_alpha = pruner.gates.log_alpha
        log_alpha.copy_(UNIT_SPREAD * torch.randn(log_alpha.shape, generator=generator))
        for group in pruner.gates.groups:
            log_alpha[group.slice] += LAYER_SPREAD * torch.randn((), generator=generator)
    return compact_encoder(encoder, pruner.evaluation_gates())[0]
