"""Remove the closed units of an upstream, and make sure that nothing else changed."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from espnet_hjprune.constants import SAMPLE_RATE
from espnet_hjprune.errors import HJPruneError
from espnet_hjprune.model.summary import summarise
from espnet_hjprune.model.target_distance import check_distance
from espnet_hjprune.model.upstream import SpeechUpstream
from espnet_hjprune.pruning.pruner import Pruner
from espnet_hjprune.pruning.slicing import compact_encoder

# Largest difference between gated and compact outputs, relative to the largest output (at least 1).
# Rounding in float32 gives 1e-5 and less; a norm with wrong statistics gives 1e-2.
TOLERANCE = 1e-4
# Lengths of the noise that is compared where no audio is given.
NOISE_SECONDS = (3.0, 1.7, 0.9)
NOISE_LEVEL = 0.1


@dataclass(frozen=True)
class CompactUpstream:
    """Result of a compaction.

    Attributes:
        upstream: the smaller upstream, in the mode and on the device of the gated one.
        kept: hidden features of the gated upstream that it keeps.
        summary: costs and sizes before and after, and ``max_abs_diff`` of the outputs.
    """

    upstream: SpeechUpstream
    kept: list[int]
    summary: dict[str, Any]


def compact(
    upstream: SpeechUpstream,
    waves: Sequence[torch.Tensor] | None = None,
    *,
    scatter: bool = True,
    allow_off_target: bool = False,
) -> CompactUpstream:
    """Remove the closed units of an upstream.

    Args:
        upstream: the upstream with gates; it is not changed.
        waves: utterances ``(samples,)`` at 16 kHz on which both are compared; ``None`` for noise.
        scatter: put the features that are left back to their places among zeros, so that what
            reads them need not change. Without it the features are fewer, and a linear layer that
            reads them must be sliced to ``kept`` (see :func:`sliced`).
        allow_off_target: compact gates that are far from their target too.

    Raises:
        HJPruneError: there are no gates, the target has not finished rising, the gates are far from
            it (:mod:`~espnet_hjprune.model.target_distance`), or the outputs differ.

    Example:
        >>> result = compact(model.upstream)
        >>> model.upstream = result.upstream
        >>> result.summary["sparsity"]["actual"], result.summary["max_abs_diff"]
        (0.4003, 2.1e-06)
    """
    pruner = upstream.pruner
    if pruner is None:
        raise HJPruneError("the upstream has no gates; compaction needs one that was pruned")
    check_gates(pruner, allow_off_target)
    encoder, kept = compact_encoder(upstream.encoder, pruner.evaluation_gates(), scatter)
    options = replace(
        upstream.options,
        architecture=encoder.config,
        upstream=None,
        path_or_url=None,
        pruning=None,
        distillation=None,
    )
    smaller = SpeechUpstream(options).eval()
    smaller.encoder.load_state_dict(encoder.state_dict())
    if smaller.layer_weights is not None and upstream.layer_weights is not None:
        smaller.layer_weights.data.copy_(upstream.layer_weights)
    difference = compare(upstream, smaller, kept, {}, noise() if waves is None else waves)
    summary = summarise(pruner, encoder) | difference
    smaller.to(upstream.encoder.mask_embedding.device).train(upstream.training)
    return CompactUpstream(smaller, kept, summary)


def check_gates(pruner: Pruner, allow_off_target: bool = False) -> None:
    """Make sure that the gates can be compacted: the target was at a level when they were saved.

    Args:
        pruner: the gates.
        allow_off_target: whether they may be far from it.

    Raises:
        HJPruneError: it was still rising, this is an average over different targets, the gates are
            far from it, or the training has diverged.
    """
    if not pruner.gates.log_alpha.isfinite().all():
        raise HJPruneError(
            "the gates are no numbers, as the training has diverged; prune again with lower rates"
        )
    if pruner.constraint.mixes_targets:
        raise HJPruneError(
            "the model is an average over epochs of which some had another target or were saved "
            "before the target finished rising; compact the last epoch"
        )
    if not pruner.constraint.is_on_target:
        steps = int(pruner.constraint.num_steps)
        raise HJPruneError(
            f"the model was saved in optimiser step {steps}, before the target finished rising in "
            f"step {pruner.constraint.schedule.next_level(steps)}; compact a later epoch"
        )
    check_distance(pruner, allow_off_target)


def sliced(linear: nn.Linear, kept: Sequence[int]) -> nn.Linear:
    """A linear layer that reads only the features ``kept`` of those that ``linear`` reads."""
    smaller = nn.Linear(len(kept), linear.out_features, linear.bias is not None)
    with torch.no_grad():
        smaller.weight.copy_(linear.weight[:, list(kept)])
        if linear.bias is not None:
            smaller.bias.copy_(linear.bias)
    return smaller.to(linear.weight).train(linear.training)


def noise() -> list[torch.Tensor]:
    """Utterances of white noise, the same in every call."""
    generator = torch.Generator().manual_seed(0)
    return [
        NOISE_LEVEL * torch.randn(round(seconds * SAMPLE_RATE), generator=generator)
        for seconds in NOISE_SECONDS
    ]


@torch.no_grad()
def compare(
    gated: SpeechUpstream,
    smaller: SpeechUpstream,
    kept: Sequence[int],
    readers: Mapping[str, Sequence[tuple[torch.Tensor, torch.Tensor]]],
    waves: Sequence[torch.Tensor],
) -> dict[str, Any]:
    """Compare gated and compact upstream on single utterances and on a padded batch of all.

    Both are compared on the CPU in evaluation mode and in float32.

    Args:
        gated: upstream with gates.
        smaller: the compact one.
        kept: the positions of its features in those of the gated one.
        readers: by name, weight and bias of a linear layer before and after it was sliced.
        waves: utterances ``(samples,)``.

    Returns:
        ``max_abs_diff`` of the upstream's features on valid frames; under ``readers``, for every
        sliced reader, the same of its output and the output's own largest value ``max_abs``.

    Raises:
        HJPruneError: a difference is above ``TOLERANCE``.
    """
    gated = copy.deepcopy(gated).cpu().float().eval()
    worst = Difference()
    outputs = {name: Difference() for name in readers}
    batches = [list(waves)] + [[wave] for wave in waves]
    for batch in batches:
        padded = nn.utils.rnn.pad_sequence(batch, batch_first=True).cpu().float()
        lengths = torch.tensor([len(wave) for wave in batch])
        full, frames = gated(padded, lengths)
        small, small_frames = smaller(padded, lengths)
        if not torch.equal(frames, small_frames):
            raise AssertionError("the compact model gives another number of frames")
        inside = torch.arange(full.shape[1]) < frames.unsqueeze(1)
        narrow = full if full.shape == small.shape else full[..., list(kept)]
        worst.note(narrow[inside], small[inside])
        for name, found in outputs.items():
            before, after = readers[name]
            found.note(F.linear(full, *before)[inside], F.linear(small, *after)[inside])
    for name, found in {"the features": worst, **outputs}.items():
        found.check(name)
    return {
        "max_abs_diff": worst.max_abs_diff,
        "readers": {
            name: {"max_abs_diff": found.max_abs_diff, "max_abs": found.max_abs}
            for name, found in outputs.items()
        },
    }


def largest(values: torch.Tensor) -> float:
    """The largest absolute value; infinite if there is NaN, which no comparison would count."""
    value = values.abs().max().item()
    return math.inf if math.isnan(value) else value


@dataclass
class Difference:
    """How far outputs are apart, and how large they are."""

    max_abs_diff: float = 0.0
    max_abs: float = 0.0

    def note(self, expected: torch.Tensor, found: torch.Tensor) -> None:
        """Take two outputs of one shape into account."""
        self.max_abs_diff = max(self.max_abs_diff, largest(expected - found))
        self.max_abs = max(self.max_abs, largest(expected))

    def check(self, name: str) -> None:
        """Refuse a difference above the tolerance.

        Raises:
            HJPruneError: it is larger, or the outputs are no numbers.
        """
        if not math.isfinite(self.max_abs):
            raise HJPruneError(
                f"the gated model gives no numbers in {name}, as its training has diverged; train "
                "it again with lower rates"
            )
        limit = TOLERANCE * max(1.0, self.max_abs)
        if self.max_abs_diff > limit:
            raise HJPruneError(
                f"the compact model differs from the gated one by {self.max_abs_diff:.1e} in "
                f"{name}, more than {limit:.1e}; report this as a bug"
            )
