"""What pruning a trained model will cost: units are scored and closed, nothing is trained."""

from __future__ import annotations

import copy
import statistics
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from espnet_hjprune.alternation import alternate
from espnet_hjprune.constants import SAMPLE_RATE
from espnet_hjprune.model.summary import layer_sizes
from espnet_hjprune.model.upstream import SpeechUpstream
from espnet_hjprune.nn.encoder import SpeechEncoder
from espnet_hjprune.nn.gate_values import GateValues
from espnet_hjprune.pruning.config import DEFAULT_UNITS, SCORES, PruningConfig
from espnet_hjprune.pruning.cost import macs_and_params
from espnet_hjprune.pruning.importance import magnitude_scores, settle_by_scores, taylor_scores
from espnet_hjprune.pruning.pruner import Pruner
from espnet_hjprune.pruning.slicing import compact_encoder

Batch = dict[str, torch.Tensor]
Loss = Callable[[Batch], torch.Tensor]


@dataclass(frozen=True)
class PreviewOptions:
    """What is tried.

    Attributes:
        targets: shares of the cost to remove.
        criterion: ``macs``, ``size`` or ``latency``.
        latency_table: of ``latency``, as :class:`.PruningConfig` has it.
        units: kinds of units that are closed.
        scores: how they are scored, of :data:`.SCORES`.
        seconds: length of the audio that is timed and whose MACs are counted.
        batch: utterances that are timed at once.
        rounds: of timing, in which dense and compact encoder take turns; 0 for none.
    """

    targets: Sequence[float] = (0.2, 0.4, 0.6)
    criterion: str = "macs"
    latency_table: str = ""
    units: Sequence[str] = DEFAULT_UNITS
    scores: Sequence[str] = SCORES
    seconds: float = 10.0
    batch: int = 1
    rounds: int = 5

    @property
    def samples(self) -> int:
        """Samples of the audio that is timed."""
        return round(self.seconds * SAMPLE_RATE)


@dataclass(frozen=True)
class PreviewedModel:
    """A model as it is after the cut.

    Attributes:
        scores: how its units were scored; empty for the dense model.
        target: share of the cost to remove.
        macs: multiply-accumulates for the audio that is timed.
        params: parameters.
        macs_removed: share of the dense model's MACs.
        loss: mean over the held-out batches.
        latency: seconds, median; ``None`` where nothing is timed.
        speed_up: against the dense model, median over the rounds.
        layers: units of every layer.
    """

    scores: str
    target: float
    macs: int
    params: int
    macs_removed: float
    loss: float
    latency: float | None = None
    speed_up: float | None = None
    layers: dict[str, Any] = field(default_factory=dict)


def preview(
    upstream: SpeechUpstream,
    loss: Loss,
    scored: Iterable[Batch],
    held_out: Sequence[Batch],
    options: PreviewOptions,
) -> Iterator[PreviewedModel]:
    """Score units, close them, and look at what is left; the dense model comes first.

    Args:
        upstream: of the model, without gates.
        loss: of the task, from a batch, through the upstream.
        scored: batches by which units are scored; read once.
        held_out: other batches, which give the loss.
        options: what is tried.

    Raises:
        HJPruneError: a target cannot be met, or units cannot be scored.
    """
    pruners = [
        Pruner(
            upstream.config,
            PruningConfig(
                units=list(options.units),
                criterion=options.criterion,
                latency_table=options.latency_table,
                target_sparsity=target,
                seconds=options.seconds,
                ramp_steps=0,
            ),
        )
        .to(upstream.encoder.mask_embedding.device)
        .eval()
        for target in options.targets
    ]
    dense = macs_and_params(upstream.config, None, options.samples)

    def look(
        encoder: SpeechEncoder, gates: GateValues, scores: str, target: float
    ) -> PreviewedModel:
        with torch.inference_mode(), upstream.gates_held_at(gates):
            mean = statistics.fmean(float(loss(batch)) for batch in held_out)
        cost = macs_and_params(encoder.config, None, options.samples)
        latency, speed_up = _timed(upstream.encoder, encoder, options)
        return PreviewedModel(
            scores,
            target,
            cost["macs"],
            cost["params"],
            1 - cost["macs"] / dense["macs"],
            mean,
            latency,
            speed_up,
            layer_sizes(encoder.config),
        )

    yield look(upstream.encoder, GateValues(), "", 0.0)
    for name in options.scores:
        scores = (
            magnitude_scores(pruners[0].gates, upstream.encoder)
            if name == "magnitude"
            else taylor_scores(
                pruners[0].gates, (_with_gates(upstream, loss, batch) for batch in scored)
            )
        )
        for target, pruner in zip(options.targets, pruners, strict=True):
            settle_by_scores(pruner, scores)
            gates = pruner.evaluation_gates()
            compact, _ = compact_encoder(upstream.encoder, gates)
            yield look(compact, gates, name, target)


def _with_gates(
    upstream: SpeechUpstream, loss: Loss, batch: Batch
) -> Callable[[GateValues], torch.Tensor]:
    """The loss of a batch as a function of the gates."""

    def loss_of(values: GateValues) -> torch.Tensor:
        with upstream.gates_held_at(values):
            return loss(batch)

    return loss_of


def _timed(
    dense: SpeechEncoder, encoder: SpeechEncoder, options: PreviewOptions
) -> tuple[float | None, float | None]:
    """Latency and speed-up of an encoder, as it takes turns with the dense one."""
    if options.rounds == 0:
        return None, None
    device = dense.mask_embedding.device
    wave = 0.1 * torch.randn(options.batch, options.samples, device=device)
    lengths = torch.full((options.batch,), options.samples, device=device)
    models = {"dense": copy.deepcopy(dense).eval(), "compact": encoder.to(device).eval()}
    runs = {name: (lambda model=model: model(wave, lengths)) for name, model in models.items()}
    with torch.inference_mode():
        seconds = alternate(runs, options.rounds, device=device.type)
    rounds = zip(seconds["dense"], seconds["compact"], strict=True)
    speed_up = statistics.median(full / small for full, small in rounds)
    return statistics.median(seconds["compact"]), speed_up
