"""Rounding gates to units that meet the target."""

from dataclasses import replace

import pytest
import torch
from hypothesis import example, given, settings
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


@settings(max_examples=40, deadline=None)
@given(
    target=st.floats(0.02, 0.9),
    spread=st.floats(1e-3, 8.0),
    inside=st.sets(st.sampled_from(["head", "ffn"])),
    seed=st.integers(0, 1000),
)
# All but one FFN is open, and that is 3.2 % of the MACs.
@example(target=0.0234375, spread=2.0, inside={"head"}, seed=549)
def test_whole_layers_close_and_the_target_is_met(target, spread, inside, seed):
    units = ["conv", "attention_layer", "ffn_layer", "hidden", *inside]
    pruner = random_pruner(
        architecture("wav2vec2_base"), seed, spread, units=units, target_sparsity=target
    )
    keep, counts = pruner.kept_units()
    # Channels and hidden features are steps of less than a thousandth.
    assert target <= removed(pruner, counts, pruner.measures[0]) <= target + 0.002
    gates = pruner()
    for unit, layers in (("head", "attention_layer"), ("ffn", "ffn_layer")):
        (group,) = (g for g in pruner.gates.groups if g.unit == layers)
        for layer, is_open in enumerate(keep[group.slice].tolist()):
            left = int((getattr(gates, unit)[layer] > 0).sum())
            assert left == getattr(counts, unit)[layer]
            assert is_open or left == 0
            if unit not in inside and is_open:
                assert left == getattr(config_counts(pruner.config), unit)[layer]
    assert len(gates.head) == len(gates.ffn) == 12


@pytest.mark.parametrize(
    ("units", "criterion", "target"),
    [
        (["head"], "macs", 0.3),
        (["attention_layer"], "macs", 0.3),
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


@settings(max_examples=25, deadline=None)
@given(
    target=st.floats(0.05, 0.9),
    spread=st.floats(1e-3, 8.0),
    round_to=st.sampled_from([1, 8, 32]),
    seed=st.integers(0, 1000),
)
def test_uniform_layers_are_alike_and_meet_the_target(target, spread, round_to, seed):
    config = architecture("wav2vec2_base")
    pruner = random_pruner(
        config, seed, spread, target_sparsity=target, uniform=True, round_to=round_to
    )
    keep, counts = pruner.kept_units()
    (heads,), (ffn,) = set(counts.head), set(counts.ffn)
    assert counts.hidden == heads * config.head_dim > 0 and ffn % round_to == 0
    width = counts.hidden // 16
    assert counts.positional_pairs == 16 * width**2
    assert removed(pruner, counts, pruner.measures[0]) >= target
    # A head of every layer is a step of some percent; of all else nothing more would fit.
    larger = [replace(counts, ffn=[ffn + round_to] * 12)] if ffn < 3072 else []
    for layer, channels in enumerate(counts.conv):
        if channels < 512:
            conv = [*counts.conv[:layer], channels + round_to, *counts.conv[layer + 1 :]]
            larger.append(replace(counts, conv=conv))
    assert all(removed(pruner, more, pruner.measures[0]) < target for more in larger)
    hidden = next(group for group in pruner.gates.groups if group.unit == "hidden")
    places = keep[hidden.slice].view(16, -1)
    assert (places.sum(1) == width).all()
    # Of each group of the positional convolution the most probable features.
    log_alpha = pruner.gates.log_alpha[hidden.slice].view(16, -1)
    for kept, own in zip(places, log_alpha, strict=True):
        assert kept.all() or own[kept].min() >= own[~kept].max()


def test_a_uniform_model_stays_exact_and_uniform():
    encoder = random_encoder(small_config())
    pruner = random_pruner(encoder.config, target_sparsity=0.5, uniform=True)
    compact, _ = compact_encoder(encoder, pruner.evaluation_gates())
    config = compact.config
    assert len(set(config.heads)) == len(set(config.ffn_sizes)) == 1
    assert config.hidden_size == config.heads[0] * config.head_dim
    assert len(set(config.positional.group_widths)) == 1
    again = random_pruner(config, target_sparsity=0.3, uniform=True)
    assert len(set(again.kept_units()[1].head)) == 1


def test_separate_targets_of_a_uniform_model():
    pruner = random_pruner(
        architecture("wav2vec2_base"),
        criterion="sepsize",
        target_sparsity={"cnn": 0.7, "transformer": 0.3},
        uniform=True,
    )
    _, counts = pruner.kept_units()
    for measure in pruner.measures:
        # The Transformer has nothing finer than a unit in each of 12 layers.
        assert 0 <= removed(pruner, counts, measure) - measure.target <= 0.001
    assert len(set(counts.conv)) > 1


def test_what_cannot_be_uniform_is_refused():
    with pytest.raises(HJPruneError, match="put both head and hidden into"):
        random_pruner(small_config(), units=["head", "ffn"], uniform=True)
    encoder = random_encoder(small_config())
    gates = random_pruner(encoder.config, target_sparsity=0.5).evaluation_gates()
    uneven = compact_encoder(encoder, gates)[0].config
    with pytest.raises(HJPruneError, match="needs an upstream whose layers are all alike"):
        random_pruner(uneven, target_sparsity=0.2, uniform=True)
    with pytest.raises(HJPruneError, match="cannot be met"):
        random_pruner(small_config(), target_sparsity=0.99, uniform=True)
    with pytest.raises(HJPruneError, match=r"pruning\.uniform"):
        PruningConfig(uniform="maybe")
