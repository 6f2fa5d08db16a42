"""Rounding gates to units that meet the target."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from models import random_encoder, random_pruner, small_config

from espnet_hjprune.errors import HJPruneError
from espnet_hjprune.pruning.config import PruningConfig
from espnet_hjprune.pruning.cost import config_counts
from espnet_hjprune.pruning.pruner import Pruner
from espnet_hjprune.pruning.slicing import compact_encoder
from espnet_hjprune.upstream import architecture


def removed(pruner, counts, measure):
    return float(measure.sparsity(pruner.config, counts))


@settings(max_examples=40, deadline=None)
@given(
    criterion=st.sampled_from(["macs", "size"]),
    target=st.floats(0.02, 0.95),
    spread=st.just(0.0) | st.floats(1e-3, 8.0),
    shift=st.floats(-6.0, 6.0),
    seed=st.integers(0, 1000),
)
def test_base_size_lands_within_a_thousandth(criterion, target, spread, shift, seed):
    pruner = random_pruner(
        architecture("wav2vec2_base"), seed, spread, criterion=criterion, target_sparsity=target
    )
    with torch.no_grad():
        pruner.gates.log_alpha.add_(shift)
    keep, counts = pruner.kept_units()
    sparsity = removed(pruner, counts, pruner.measures[0])
    assert target <= sparsity <= target + 0.001 * (1 - target) + 1e-9
    for group in pruner.gates.groups:
        kept = keep[group.slice]
        assert kept.sum() >= group.minimum
        if 0 < kept.sum() < group.size:
            log_alpha = pruner.gates.log_alpha[group.slice]
            assert log_alpha[kept].min() >= log_alpha[~kept].max()


def test_separate_targets_are_both_met():
    pruner = random_pruner(
        architecture("wav2vec2_base"),
        criterion="sepsize",
        target_sparsity={"cnn": 0.7, "transformer": 0.3},
    )
    _, counts = pruner.kept_units()
    for measure in pruner.measures:
        assert 0 <= removed(pruner, counts, measure) - measure.target <= 0.001


def test_units_that_are_not_gated_stay():
    config = architecture("wav2vec2_base")
    pruner = random_pruner(
        config, units=["head", "ffn", "hidden"], criterion="size", target_sparsity=0.5
    )
    _, counts = pruner.kept_units()
    assert list(counts.conv) == [512] * 7
    assert 0 <= removed(pruner, counts, pruner.measures[0]) - 0.5 <= 0.001


def test_alignment_keeps_the_target():
    pruner = random_pruner(architecture("wav2vec2_base"), target_sparsity=0.5, round_to=8)
    _, counts = pruner.kept_units()
    assert all(count % 8 == 0 for count in [*counts.conv, *counts.ffn, counts.hidden])
    assert 0 <= removed(pruner, counts, pruner.measures[0]) - 0.5 <= 0.001


def test_targets_that_alignment_makes_impossible_are_refused():
    with pytest.raises(HJPruneError, match="cannot be met"):
        random_pruner(small_config(), target_sparsity=0.7, round_to=32)


def test_alignment_holds_for_layers_that_nearly_vanish():
    pruner = random_pruner(architecture("wav2vec2_base"), target_sparsity=0.9, round_to=8)
    with torch.no_grad():
        pruner.gates.log_alpha[: 2 * 512] = -20.0
    assert list(pruner.kept_units()[1].conv[:2]) == [8, 8]


def test_settled_gates_are_rounded_without_change():
    """Gates that are clearly open or closed, on target, come out as they are."""
    config = small_config()
    pruner = random_pruner(config, target_sparsity=0.5)
    keep, counts = pruner.kept_units()
    with torch.no_grad():
        pruner.gates.log_alpha.copy_(torch.where(keep, 12.0, -12.0))
    pruner.constraint.schedule.increments.fill_(removed(pruner, counts, pruner.measures[0]))
    assert torch.equal(pruner.kept_units()[0], keep)


def test_counts_are_those_of_the_compact_encoder():
    encoder = random_encoder(small_config())
    for seed in range(5):
        pruner = random_pruner(encoder.config, seed, target_sparsity=0.6)
        compact, _ = compact_encoder(encoder, pruner())
        assert pruner.kept_units()[1] == config_counts(compact.config)


@pytest.mark.parametrize(
    ("units", "criterion", "target"),
    [
        (["head"], "macs", 0.3),
        (["head", "ffn", "hidden"], "macs", 0.8),
        (["conv"], "size", 0.1),
        (["conv"], "sepsize", {"cnn": 0.5, "transformer": 0.5}),
        (["head", "ffn"], "sepsize", {"cnn": 0.5, "transformer": 0.5}),
    ],
)
def test_targets_that_cannot_be_met_are_refused(units, criterion, target):
    options = PruningConfig(units=units, criterion=criterion, target_sparsity=target)
    with pytest.raises(HJPruneError, match="cannot be met"):
        Pruner(architecture("wav2vec2_base"), options)
