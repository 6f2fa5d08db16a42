"""Scores of units against finite differences and weights, and the sets that are chosen by them."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from models import padded_batch, random_encoder, small_config

from espnet_hjprune.errors import HJPruneError
from espnet_hjprune.pruning.config import UNITS, PruningConfig
from espnet_hjprune.pruning.cost import config_counts, encoder_cost
from espnet_hjprune.pruning.importance import (
    magnitude_scores,
    settle_by_scores,
    taylor_scores,
    unit_savings,
)
from espnet_hjprune.pruning.pruner import Pruner
from espnet_hjprune.pruning.slicing import compact_encoder
from espnet_hjprune.upstream import architecture


def make_pruner(config=None, **options):
    options = {"target_sparsity": 0.4, "ramp_steps": 0} | options
    return Pruner(config or small_config(), PruningConfig(**options)).eval()


@pytest.mark.parametrize("style", ["base", "large"])
def test_taylor_scores_are_the_slopes_of_the_loss(style):
    encoder = random_encoder(small_config(style)).double()
    pruner = make_pruner(encoder.config, units=list(UNITS))
    batches = [padded_batch([6000, 4000], seed) for seed in (0, 1)]
    goal = torch.randn(2, 12, 64, generator=torch.Generator().manual_seed(0)).double()

    def loss_of(batch):
        wave, lengths = batch
        return lambda gates: (
            (encoder(wave.double(), lengths, gates)[0][-1][:, :12] * goal).square().mean()
        )

    gates = pruner.gates.double()
    scores = taylor_scores(gates, [loss_of(batch) for batch in batches])
    step = 1e-4
    for group in gates.groups:
        place = group.start + group.size // 2
        slopes = []
        for batch in batches:
            ends = []
            for sign in (1, -1):
                flat = torch.ones(len(scores), dtype=torch.float64)
                flat[place] += sign * step
                values = gates.values(flat)
                with torch.no_grad():
                    ends.append(loss_of(batch)(values).item())
            slopes.append(abs(ends[0] - ends[1]) / (2 * step))
        expected = sum(slopes) / len(slopes)
        assert scores[place].item() == pytest.approx(expected, rel=1e-4, abs=1e-9)


def test_magnitudes_are_norms_of_the_weights_that_read_a_unit():
    encoder = random_encoder(small_config())
    pruner = make_pruner(units=list(UNITS))
    scores = magnitude_scores(pruner.gates, encoder)
    parts = {(group.unit, group.layer): scores[group.slice] for group in pruner.gates.groups}
    layer = encoder.transformer.layers[1]
    out = layer.attention.out.weight.detach().double()
    heads = torch.stack([out[:, 16 * head : 16 * (head + 1)].norm() for head in range(4)])
    torch.testing.assert_close(parts["head", 1], heads / heads.mean())
    units = layer.ffn.fc2.weight.detach().double().norm(dim=0)
    torch.testing.assert_close(parts["ffn", 1], units / units.mean())
    channels = encoder.feature_extractor.layers[3].conv.weight.detach().double().norm(dim=(0, 2))
    torch.testing.assert_close(parts["conv", 2], channels / channels.mean())
    last = encoder.feature_projection.linear.weight.detach().double().norm(dim=0)
    torch.testing.assert_close(parts["conv", 6], last / last.mean())
    for part in parts.values():
        assert part.mean().item() == pytest.approx(1.0)


@pytest.mark.parametrize("criterion", ["macs", "size"])
def test_savings_are_what_a_compact_encoder_has_less(criterion):
    encoder = random_encoder(small_config())
    pruner = make_pruner(criterion=criterion, units=list(UNITS))
    kind = "macs" if criterion == "macs" else "params"
    samples = pruner.options.samples
    savings = unit_savings(pruner)
    dense = encoder_cost(pruner.config, config_counts(pruner.config), kind, samples)
    for group in pruner.gates.groups:
        flat = torch.ones(len(savings))
        flat[group.start] = 0
        compact, _ = compact_encoder(encoder, pruner.gates.values(flat))
        less = dense - encoder_cost(compact.config, config_counts(compact.config), kind, samples)
        assert savings[group.start].item() * pruner.measures[0].dense == pytest.approx(less)


@settings(max_examples=25, deadline=None)
@given(
    target=st.floats(0.05, 0.9),
    seed=st.integers(0, 1000),
    units=st.sampled_from([["conv", "head", "ffn", "hidden"], list(UNITS)]),
)
def test_the_worth_of_what_is_kept_is_above_that_of_what_is_not(target, seed, units):
    pruner = make_pruner(architecture("wav2vec2_base"), target_sparsity=target, units=units)
    generator = torch.Generator().manual_seed(seed)
    scores = torch.rand(len(pruner.gates.log_alpha), generator=generator).exp() * 3
    settle_by_scores(pruner, scores)
    keep, counts = pruner.kept_units()
    sparsity = float(pruner.measures[0].sparsity(pruner.config, counts))
    assert target <= sparsity <= target + 0.003
    worth = scores / unit_savings(pruner)
    # One threshold for all, but for the last units of a group, which are rounded or filled up.
    for group in pruner.gates.groups:
        kept = keep[group.slice]
        if 0 < kept.sum() < group.size and group.unit in ("conv", "ffn", "hidden"):
            own = worth[group.slice]
            assert own[kept].min() >= own[~kept].max()
    # Gates are as good as 0 and 1, and rounding them again changes nothing.
    values = pruner.gates.evaluation(keep)
    assert all(((value == 0) | (value > 1 - 1e-6)).all() for value in values.ffn)
    assert torch.equal(pruner.gates.log_alpha > 0, keep)


def test_wrong_scores_are_refused():
    pruner = make_pruner()
    scores = torch.ones(len(pruner.gates.log_alpha))
    for bad in (-1.0, float("nan"), float("inf")):
        scores[3] = bad
        with pytest.raises(HJPruneError, match="negative or no numbers"):
            settle_by_scores(pruner, scores)
    with pytest.raises(HJPruneError, match="no utterances to score"):
        taylor_scores(pruner.gates, [])
    with pytest.raises(HJPruneError, match="no unit changes the loss to first order"):
        taylor_scores(pruner.gates, [lambda gates: 0.0 * gates.hidden.value.sum()])
    with pytest.raises(HJPruneError, match="the loss of a batch is no number"):
        taylor_scores(pruner.gates, [lambda gates: torch.tensor(float("nan"))])
