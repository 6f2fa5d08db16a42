"""Gated and compact encoders compute the same."""

import copy
import itertools

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from models import (
    FAMILIES,
    family_encoder,
    padded_batch,
    random_encoder,
    random_pruner,
    small_config,
)

from espnet_hjprune.errors import HJPruneError
from espnet_hjprune.nn.encoder import SpeechEncoder
from espnet_hjprune.nn.gate_values import FeatureGate, GateValues
from espnet_hjprune.pruning.config import UNITS, PruningConfig
from espnet_hjprune.pruning.cost import config_counts
from espnet_hjprune.pruning.pruner import Pruner
from espnet_hjprune.pruning.slicing import compact_encoder
from espnet_hjprune.upstream import architecture


def difference(encoder, gates, wave, lengths):
    """Largest difference on valid frames, and of the closed features from zero."""
    compact, kept = compact_encoder(encoder, gates)
    with torch.no_grad():
        gated_states, frames = encoder(wave, lengths, gates, all_states=True)
        states, compact_frames = compact(wave, lengths, all_states=True)
    assert torch.equal(frames, compact_frames)
    closed = [i for i in range(encoder.config.hidden_size) if i not in set(kept)]
    worst = 0.0
    for gated, small in zip(gated_states, states, strict=True):
        assert not gated[..., closed].any()
        for row, length in enumerate(frames.tolist()):
            delta = gated[row, :length][:, kept] - small[row, :length]
            worst = max(worst, delta.abs().max().item())
    return worst


def double_difference(encoder, gates, wave, lengths):
    """Largest difference of the outputs on valid frames, both models run in double precision."""
    compact, kept = compact_encoder(encoder, gates)
    wide = GateValues(
        [FeatureGate(gate.value.double(), gate.keep.double()) for gate in gates.conv],
        [value.double() for value in gates.head],
        [value.double() for value in gates.ffn],
    )
    if gates.hidden is not None:
        wide.hidden = FeatureGate(gates.hidden.value.double(), gates.hidden.keep.double())
    with torch.no_grad():
        gated, frames = copy.deepcopy(encoder).double()(wave.double(), lengths, wide)
        small, _ = compact.double()(wave.double(), lengths)
    return max(
        (gated[0][row, :length][:, kept] - small[0][row, :length]).abs().max().item()
        for row, length in enumerate(frames.tolist())
    )


@settings(max_examples=100, deadline=None)
@given(
    style=st.sampled_from(["base", "large"]),
    family=st.sampled_from(FAMILIES),
    units=st.lists(st.sampled_from(UNITS), min_size=1, unique=True),
    seed=st.integers(0, 10_000),
    target=st.floats(0.01, 0.3),
)
@example("large", "lighthubert", ["conv", "ffn", "hidden"], 0, 0.25)
def test_gated_equals_compact(style, family, units, seed, target):
    encoder = family_encoder(family, style, seed=seed)
    try:
        pruner = random_pruner(encoder.config, seed, units=units, target_sparsity=target)
    except HJPruneError as error:
        assert "cannot be met" in str(error)
        return
    wave, lengths = padded_batch([6000, 3100, 4500], seed)
    gates = pruner()
    with torch.no_grad():
        loudest = max(state.abs().max() for state in encoder(wave, lengths, gates)[0])
    if loudest > 4 or len(compact_encoder(encoder, gates)[1]) < 8:
        # Outputs of data2vec and LightHuBERT reach 7 here, and a norm over two features amplifies
        # differences by 300: float32 alone is off by 1e-5 in each of the models.
        for batch in (slice(0, 3), slice(1, 2)):
            longest = int(lengths[batch].max())
            part = wave[batch, :longest], lengths[batch]
            assert double_difference(encoder, gates, *part) <= 5e-6
        return
    assert difference(encoder, gates, wave, lengths) <= 1e-5
    assert difference(encoder, gates, wave[1:2, :3100], lengths[1:2]) <= 1e-5


EMPTY = {
    ("no heads", "head", 0),
    ("no heads", "head", 2),
    ("no ffn", "ffn", 0),
    ("no ffn", "ffn", 1),
}


def edge_gates(encoder, case):
    """Gates at the edges of what pruning can do."""
    pruner = Pruner(encoder.config, PruningConfig(target_sparsity=0.1, ramp_steps=0)).eval()
    flat = torch.rand(pruner.gates.log_alpha.shape) * 0.9 + 0.1
    for group in pruner.gates.groups:
        part = flat[group.slice]
        if (case, group.unit, group.layer) in EMPTY:
            part.zero_()
        elif case == "one channel" and group.unit == "conv":
            part[1:] = 0
        elif case == "uneven groups" and group.unit == "hidden":
            part[: len(part) // 4] = 0
            part[::3] = 0
        elif case == "one hidden" and group.unit == "hidden":
            part[:-1] = 0
    return pruner.gates.values(flat)


@pytest.mark.parametrize("style", ["base", "large"])
@pytest.mark.parametrize("family", ["wav2vec2", "wavlm", "ungated", "data2vec", "distiller"])
@pytest.mark.parametrize(
    "case", ["no heads", "no ffn", "one channel", "uneven groups", "one hidden", "soft gates"]
)
def test_edges(style, family, case):
    encoder = family_encoder(family, style)
    torch.manual_seed(0)
    wave, lengths = padded_batch([6000, 3100])
    assert difference(encoder, edge_gates(encoder, case), wave, lengths) <= 1e-5


@pytest.mark.parametrize(
    ("name", "target"),
    [
        *[("wav2vec2_base", target) for target in (0.2, 0.4, 0.6, 0.8)],
        ("wav2vec2_large", 0.4),
        ("wavlm_base_plus", 0.4),
        ("distilhubert", 0.4),
    ],
)
def test_full_size_models(name, target):
    config = architecture(name)
    torch.manual_seed(0)
    encoder = SpeechEncoder(config).eval()
    pruner = random_pruner(config, target_sparsity=target)
    measure = pruner.measures[0]
    wave, lengths = padded_batch([8000, 5000])
    gates = pruner()
    assert difference(encoder, gates, wave, lengths) <= 1e-5
    compact, _ = compact_encoder(encoder, gates)
    macs = measure.cost(compact.config, config_counts(compact.config))
    budget = (1 - target) * measure.dense
    assert 0 <= budget - macs <= 0.001 * budget


def test_full_size_data2vec_in_double_precision():
    """Random weights make outputs up to 17, where single precision itself is off by 1e-5."""
    config = architecture("data2vec_base")
    torch.manual_seed(0)
    encoder = SpeechEncoder(config).eval()
    gates = random_pruner(config, target_sparsity=0.6)()
    wave, lengths = padded_batch([8000, 5000])
    assert double_difference(encoder, gates, wave, lengths) <= 5e-6


@pytest.mark.parametrize("family", ["wav2vec2", "wavlm", "data2vec"])
def test_a_compact_model_can_be_pruned_again(family):
    encoder = family_encoder(family)
    first, kept = compact_encoder(encoder, random_pruner(encoder.config, target_sparsity=0.3)())
    pruner = random_pruner(first.config, 1, target_sparsity=0.3)
    wave, lengths = padded_batch([5000, 4000])
    compare, bound = (double_difference, 5e-6) if family == "data2vec" else (difference, 1e-5)
    assert compare(first, pruner(), wave, lengths) <= bound
    _, kept_again = compact_encoder(first, pruner())
    assert max(kept_again) < len(kept)


@pytest.mark.parametrize("family", ["wav2vec2", "wavlm"])
@pytest.mark.parametrize("style", ["base", "large"])
def test_every_trainable_parameter_of_a_compact_model_is_used(family, style):
    """Distributed training stops at parameters that get no gradient."""
    encoder = family_encoder(family, style)
    pruner = Pruner(encoder.config, PruningConfig(target_sparsity=0.1, ramp_steps=0)).eval()
    flat = torch.ones_like(pruner.gates.log_alpha)
    for group in pruner.gates.groups:
        if (group.unit, group.layer) in {("head", 0), ("ffn", 1)}:
            flat[group.slice] = 0
    compact, _ = compact_encoder(encoder, pruner.gates.values(flat))
    again = SpeechEncoder(compact.config).train()
    wave, lengths = padded_batch([5000, 4000])
    again(wave, lengths)[0][0].square().sum().backward()
    unused = [n for n, p in again.named_parameters() if p.requires_grad and p.grad is None]
    assert unused == []


def test_scattered_output_has_the_full_width():
    encoder = random_encoder(small_config("large"))
    gates = random_pruner(encoder.config, target_sparsity=0.5)()
    scattered, kept = compact_encoder(encoder, gates, scatter=True)
    assert scattered.config.output_positions == kept
    wave, lengths = padded_batch([5000])
    with torch.no_grad():
        expected, _ = encoder(wave, lengths, gates)
        actual, _ = scattered(wave, lengths)
    assert scattered.output_size == encoder.output_size == actual[0].shape[-1]
    assert (expected[0] - actual[0]).abs().max() <= 1e-5


def test_all_gates_open_change_nothing():
    for family, style in itertools.product(FAMILIES, ("base", "large")):
        encoder = family_encoder(family, style)
        pruner = Pruner(encoder.config, PruningConfig(ramp_steps=0))
        gates = pruner.gates.values(torch.ones_like(pruner.gates.log_alpha))
        wave, lengths = padded_batch([6000, 3100])
        with torch.no_grad():
            plain, _ = encoder(wave, lengths)
            gated, _ = encoder(wave, lengths, gates)
        assert (plain[0] - gated[0]).abs().max() <= 1e-5


def test_gate_of_a_unit_equals_scaling_its_activation():
    """Folding into the consumer's weight is the paper's z * ATT and diag(z)."""
    encoder = random_encoder(small_config("base")).double()
    layer = encoder.transformer.layers[0]
    x = torch.randn(2, 9, 64, dtype=torch.float64)
    heads, units = torch.rand(4, dtype=torch.float64), torch.rand(96, dtype=torch.float64)
    ffn = layer.ffn
    expected = ffn.fc2(torch.nn.functional.gelu(ffn.fc1(x)) * units)
    assert torch.allclose(ffn(x, units), expected)
    attention = layer.attention
    q, k, v = attention.qkv(x).view(2, 9, 3, 4, 16).permute(2, 0, 3, 1, 4)
    context = torch.softmax(q @ k.transpose(-1, -2) / 4, -1) @ v * heads.view(1, 4, 1, 1)
    expected = attention.out(context.transpose(1, 2).reshape(2, 9, 64))
    assert torch.allclose(attention(x, None, heads), expected)


def test_norm_statistics_cover_kept_features_only():
    encoder = random_encoder(small_config("base")).double()
    gates = random_pruner(encoder.config, target_sparsity=0.5)()
    keep = gates.hidden.keep.bool()
    norm = encoder.transformer.norm
    x = torch.randn(3, 64, dtype=torch.float64)
    y = norm(x, gates.hidden, True)
    kept = x[:, keep]
    expected = (kept - kept.mean(1, keepdim=True)) / torch.sqrt(
        kept.var(1, unbiased=False, keepdim=True) + norm.eps
    )
    value = gates.hidden.value[keep].double()
    expected = expected * (norm.weight[keep] * value) + norm.bias[keep] * value
    assert (y[:, keep] - expected).abs().max() < 1e-12
    assert not y[:, ~keep].any()
