"""What a compaction has removed: costs and sizes before and after."""

from __future__ import annotations

from typing import Any

import torch

from espnet_hjprune.nn.config import EncoderConfig
from espnet_hjprune.nn.encoder import SpeechEncoder
from espnet_hjprune.pruning.config import PruningConfig
from espnet_hjprune.pruning.cost import config_counts, macs_and_params
from espnet_hjprune.pruning.pruner import Pruner
from espnet_hjprune.target import SEPARATE


def summarise(pruner: Pruner, encoder: SpeechEncoder) -> dict[str, Any]:
    """Costs before and after, per-layer sizes and sparsities; what ``summary.json`` holds.

    Args:
        pruner: gates of the encoder before.
        encoder: the compact encoder.

    Returns:
        ``dense``, ``expected`` and ``actual`` MACs and parameters, ``target`` of the constrained
        ones, ``sparsity``, ``constraints`` one by one, and ``layers``, the units of every layer.
    """
    options = pruner.options
    dense = pruner.dense_config
    with torch.no_grad():
        expected_counts = pruner.expected_counts()
        expected_sparsity = pruner.expected_sparsity()
    counts = config_counts(encoder.config)

    constraints = []
    measured = pruner.current_measures()
    for index, measure in enumerate(measured):
        actual = measure.whole_cost(encoder.config, counts)
        constraints.append(
            {
                "name": measure.name,
                "kind": measure.kind,
                "dense": measure.dense,
                "target_sparsity": measure.target,
                "target": _rounded((1 - measure.target) * measure.dense, measure.kind),
                "actual": actual,
                "sparsity": {
                    "expected": float(expected_sparsity[index]),
                    "actual": 1 - actual / measure.dense,
                },
            }
        )
    actual = macs_and_params(encoder.config, counts, options.samples)
    counted = sum(parameter.numel() for parameter in encoder.parameters())
    if counted != actual["params"]:
        raise AssertionError(f"counted {actual['params']} parameters, but there are {counted}")
    total = {
        key: sum(constraint[key] for constraint in constraints)
        for key in ("dense", "target", "actual")
    }
    expected_total = sum(c["sparsity"]["expected"] * c["dense"] for c in constraints)
    return {
        "criterion": options.criterion,
        "target_sparsity": (
            {measure.name: measure.target for measure in measured}
            if options.criterion == SEPARATE
            else measured[0].target
        ),
        "units": options.units,
        "scores": options.scores,
        "seconds": options.seconds,
        "dense": macs_and_params(dense, None, options.samples),
        "target": {constraints[0]["kind"]: total["target"]},
        "expected": macs_and_params(pruner.config, expected_counts, options.samples),
        "actual": actual,
        "sparsity": {
            "expected": expected_total / total["dense"],
            "actual": 1 - total["actual"] / total["dense"],
        },
        "constraints": constraints,
        "layers": layer_sizes(encoder.config) | {"dense": layer_sizes(dense)},
    }


def _rounded(cost: float, kind: str) -> float:
    """MACs and parameters are whole numbers, seconds are not."""
    return cost if kind == "seconds" else round(cost)


def unpruned_summary(config: EncoderConfig) -> dict[str, Any]:
    """What :func:`summarise` says of the encoder before, for one that is not pruned."""
    options = PruningConfig()
    cost = macs_and_params(config, None, options.samples)
    sizes = layer_sizes(config)
    return {
        "seconds": options.seconds,
        "dense": cost,
        "actual": cost,
        "constraints": [],
        "layers": sizes | {"dense": sizes},
    }


def layer_sizes(config: EncoderConfig) -> dict[str, Any]:
    """Units of every layer: lists ``conv``, ``head`` and ``ffn``, and ``hidden``."""
    counts = config_counts(config)
    return {
        "conv": list(counts.conv),
        "head": list(counts.head),
        "ffn": list(counts.ffn),
        "hidden": counts.hidden,
    }
