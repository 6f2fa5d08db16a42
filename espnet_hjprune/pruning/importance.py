"""How much units matter, measured without training any gates.

What is learned by gates must be better than this: units are scored once, and those with the lowest
score for the cost that they save are closed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace

import torch

from espnet_hjprune.errors import HJPruneError
from espnet_hjprune.nn.encoder import SpeechEncoder
from espnet_hjprune.nn.gate_values import GateValues
from espnet_hjprune.pruning.config import LAYER_UNITS
from espnet_hjprune.pruning.cost import UnitCounts, config_counts
from espnet_hjprune.pruning.gates import GateGroup, GateSet
from espnet_hjprune.pruning.pruner import Pruner

# Where log_alpha of open and closed gates is put: values and probabilities are 1 and 0 to 1e-8.
SETTLED = 20.0
# Log-odds for a score that is e times as high. So steep that gates are as good as open or closed,
# and so flat that float32 tells scores apart that differ by a millionth.
STEEPNESS = 100.0
# Units without any effect count as this share of the least that has one.
NO_EFFECT = 1e-3


def taylor_scores(
    gates: GateSet, losses: Iterable[Callable[[GateValues], torch.Tensor]]
) -> torch.Tensor:
    """Score ``(all gates,)`` of every unit: how much the loss would change without it.

    First-order Taylor expansion at open gates (Molchanov et al. 2017, 2019): the absolute gradient
    of the loss by the gate, as ``|z dL/dz|`` at ``z = 1``, mean over batches.

    Args:
        gates: of the encoder; what they have learned does not count.
        losses: for every batch a function from gate values to the loss of the task.

    Raises:
        HJPruneError: there are no batches, the loss is no number, or no unit changes it.

    Example:
        >>> scores = taylor_scores(pruner.gates, [lambda gates: loss(encoder(wave, n, gates))])
    """
    total = torch.zeros_like(gates.log_alpha, dtype=torch.float64)
    count = 0
    for loss_of in losses:
        flat = torch.ones_like(gates.log_alpha, requires_grad=True)
        loss = loss_of(gates.values(flat))
        if not loss.isfinite():
            raise HJPruneError(
                "the loss of a batch is no number, so that units cannot be scored; leave its "
                "utterances out"
            )
        (gradient,) = torch.autograd.grad(loss, flat)
        total += gradient.abs()
        count += 1
    if not count:
        raise HJPruneError("there are no utterances to score units with; give some")
    if not total.any():
        raise HJPruneError(
            "no unit changes the loss to first order, as where a model is its own teacher; score "
            "units by magnitude"
        )
    return total / count


@torch.no_grad()
def magnitude_scores(gates: GateSet, encoder: SpeechEncoder) -> torch.Tensor:
    """Score ``(all gates,)`` of every unit: the norm of the weights that read it, over their mean.

    Weights of different kinds of units and of different layers are not comparable, so every layer
    has the mean 1 (Han et al. 2015 prune layer by layer). The hidden size is read by all layers; a
    whole layer's score is the norm of its output weights.
    """
    scores = torch.zeros_like(gates.log_alpha, dtype=torch.float64)
    for group in gates.groups:
        norms = _reader_norms(group, encoder)
        scores[group.slice] = norms / norms.mean().clamp(min=torch.finfo(norms.dtype).tiny)
    return scores


def _reader_norms(group: GateGroup, encoder: SpeechEncoder) -> torch.Tensor:
    """Norms ``(units,)`` of the weights that read the units of a group."""
    layers = encoder.transformer.transformer_layers()
    if group.unit == "conv":
        weights = [layer.conv.weight for layer in encoder.feature_extractor.conv_layers()]
        weights.append(encoder.feature_projection.linear.weight)
        return _norms(weights[group.layer + 1], group.size)
    if group.unit == "head":
        return _norms(layers[group.layer].attention.out.weight, group.size)
    if group.unit == "ffn":
        return _norms(layers[group.layer].ffn.fc2.weight, group.size)
    if group.unit == "attention_layer":
        return torch.stack([layer.attention.out.weight.double().norm() for layer in layers])
    if group.unit == "ffn_layer":
        return torch.stack([layer.ffn.fc2.weight.double().norm() for layer in layers])
    readers = [
        weight for layer in layers for weight in (layer.attention.qkv.weight, layer.ffn.fc1.weight)
    ]
    squares = torch.stack([_norms(weight, group.size).square() for weight in readers])
    return squares.sum(0).sqrt()


def _norms(weight: torch.Tensor, units: int) -> torch.Tensor:
    """Norms of the parts of a weight ``(out, in, ...)`` by which it reads so many units."""
    parts = weight.double().movedim(1, 0).reshape(units, -1)
    norms: torch.Tensor = torch.linalg.vector_norm(parts, dim=1)
    return norms


def unit_savings(pruner: Pruner) -> torch.Tensor:
    """Share ``(all gates,)`` of the constrained cost that closing one unit of the model saves.

    Of several measures each counts for its own units.
    """
    config, gates = pruner.config, pruner.gates
    savings = torch.zeros_like(gates.log_alpha, dtype=torch.float64)
    for group in gates.groups:
        less = _with_one_less(pruner, group)
        saved = 0.0
        for measure in pruner.measures:
            if group.unit in measure.units:
                full = measure.sparsity(config, config_counts(config))
                saved += float(measure.sparsity(config, less) - full)
        savings[group.slice] = saved
    return savings


def _with_one_less(pruner: Pruner, group: GateGroup) -> UnitCounts:
    """Counts of the model without one unit of a group; of whole layers without the first."""
    counts = config_counts(pruner.config)
    if group.unit == "hidden":
        widest = max(pruner.config.positional.group_widths)
        return replace(
            counts,
            hidden=counts.hidden - 1,
            positional_pairs=counts.positional_pairs - widest**2 + (widest - 1) ** 2,
        )
    if group.unit in LAYER_UNITS:
        inside = LAYER_UNITS[group.unit]
        units = list(getattr(counts, inside))
        units[0] = 0
        layers = list(getattr(counts, group.unit))
        layers[0] = 0
        return replace(counts, **{inside: units, group.unit: layers})
    units = list(getattr(counts, group.unit))
    units[group.layer] -= 1
    return replace(counts, **{group.unit: units})


@torch.no_grad()
def settle_by_scores(pruner: Pruner, scores: torch.Tensor) -> None:
    """Open the gates of the units that score best for what they cost, as far as the target allows.

    Args:
        pruner: its target must not be rising any more; ``log_alpha`` is set.
        scores: ``(all gates,)``, not negative.

    Raises:
        HJPruneError: scores are negative or no numbers.
    """
    if not (scores.isfinite().all() and (scores >= 0).all()):
        raise HJPruneError("scores of units are negative or no numbers; score them again")
    worth = scores.double().cpu() / unit_savings(pruner).cpu().clamp(min=1e-300)
    positive = worth[worth > 0]
    least = positive.min() * NO_EFFECT if len(positive) else worth.new_ones(())
    log_worth = worth.clamp(min=least).log()
    log_alpha = pruner.gates.log_alpha
    log_alpha.copy_(STEEPNESS * (log_worth - log_worth.median()))
    keep = pruner.kept_units()[0].to(log_alpha.device)
    # Below 1, in the order of the scores.
    order = log_worth.argsort().argsort().to(log_alpha.device) / len(log_worth)
    log_alpha.copy_(torch.where(keep, SETTLED, -SETTLED) + order)
