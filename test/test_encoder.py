"""Masking, lengths and uneven shapes of the encoder."""

import copy
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
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
from espnet_hjprune.nn.config import DropoutConfig, EncoderConfig, MaskingConfig, PositionalConfig
from espnet_hjprune.nn.encoder import SpeechEncoder
from espnet_hjprune.nn.feature_extractor import FeatureExtractor
from espnet_hjprune.nn.gate_values import NO_GATES, FeatureGate
from espnet_hjprune.nn.gated_ops import gated_linear
from espnet_hjprune.nn.masking import sample_spans
from espnet_hjprune.nn.norms import FeatureNorm, normalise_utterances
from espnet_hjprune.nn.positional_embedding import PositionalConv

NO_DROPOUT = DropoutConfig(0.0, 0.0, 0.0, 0.0)


@settings(max_examples=50, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 200), min_size=1, max_size=5),
    prob=st.floats(0.01, 0.9),
    span=st.integers(1, 30),
)
def test_spans_lie_within_the_utterance(lengths, prob, span):
    torch.manual_seed(0)
    mask = sample_spans(torch.tensor(lengths), max(lengths), prob, span, 1)
    for row, length in zip(mask, lengths, strict=True):
        assert not row[length:].any()
        assert row[:length].sum() >= min(span, length)


def test_spans_cover_about_the_asked_share():
    torch.manual_seed(0)
    mask = sample_spans(torch.full((400,), 1000), 1000, 0.05, 10, 0)
    assert mask.float().mean().item() == pytest.approx(0.05, rel=0.1)


def test_masking_acts_in_training_only_and_trains_the_embedding():
    encoder = SpeechEncoder(
        small_config(), NO_DROPOUT, MaskingConfig(time_prob=0.3, channel_prob=0.2, channel_length=8)
    )
    wave, lengths = padded_batch([8000, 6000])
    encoder.eval()
    assert torch.equal(encoder(wave, lengths)[0][0], encoder(wave, lengths)[0][0])
    encoder.train()
    states, _ = encoder(wave, lengths)
    states[0].square().sum().backward()
    assert encoder.mask_embedding.grad.abs().sum() > 0
    assert not torch.equal(states[0], encoder(wave, lengths)[0][0])


@pytest.mark.parametrize("style", ["base", "large"])
def test_padding_of_the_batch_does_not_leak_into_attention(style):
    """Frames of a short utterance do not depend on what stands after its end."""
    encoder = random_encoder(small_config(style))
    features = torch.randn(2, 20, 32)
    lengths = torch.tensor([20, 12])
    inside = torch.arange(20) < lengths.unsqueeze(1)
    changed = features.clone()
    changed[1, 12:] = 100.0

    def run(x):
        x = encoder.feature_projection(x, _no_gates()).masked_fill(~inside.unsqueeze(-1), 0.0)
        x = x + encoder.positional_embedding(x)
        return encoder.transformer(x, inside[:, None, None], _no_gates())[-1]

    with torch.no_grad():
        assert torch.equal(run(features)[1, :12], run(changed)[1, :12])


def _no_gates():
    from espnet_hjprune.nn.gate_values import GateValues

    return GateValues()


@settings(max_examples=20, deadline=None)
@given(lengths=st.lists(st.integers(401, 9000), min_size=1, max_size=4))
def test_frame_lengths_follow_the_convolutions(lengths):
    config = small_config()
    encoder = SpeechEncoder(config)
    longest = max(lengths)
    frames = config.conv_lengths(longest)[-1]
    ours = encoder.frame_lengths(torch.tensor(lengths), longest, frames)
    assert ours.tolist() == [config.conv_lengths(n)[-1] for n in lengths]


def test_shortest_audio_gives_one_frame():
    encoder = random_encoder(small_config())
    states, frames = encoder(torch.randn(1, 100), torch.tensor([100]))
    assert states[0].shape[1] == 1 and frames.tolist() == [1]


def test_input_normalisation_covers_the_utterance_only():
    wave, lengths = padded_batch([500, 300])
    normed = normalise_utterances(wave * 3 + 0.5 * (wave != 0), lengths)
    for row, length in enumerate(lengths.tolist()):
        source = (wave * 3 + 0.5 * (wave != 0))[row, :length]
        assert (normed[row, :length] - F.layer_norm(source, (length,))).abs().max() < 1e-5
        assert not normed[row, length:].any()


@pytest.mark.parametrize("epsilon", [1e-5, 1e-7])
def test_input_normalisation_of_nothing_and_of_constants_is_zero(epsilon):
    wave, lengths = torch.zeros(3, 5), torch.tensor([0, 1, 5])
    wave[1, 0], wave[2] = 0.7, -0.3
    assert normalise_utterances(wave, lengths, epsilon).abs().max() < 1e-3


@pytest.mark.parametrize("style", ["base", "large"])
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("invariant", [False, True])
def test_audio_without_a_frame_gives_numbers(family, style, invariant):
    encoder = family_encoder(family, style)
    waves, lengths = padded_batch([5000, 0, 1, 399])
    waves[2, 0] = 0.5
    for rows in (slice(0, 4), slice(1, 4), slice(1, 2)):
        wave, size = waves[rows, : int(lengths[rows].max())], lengths[rows]
        with torch.inference_mode():
            states, frames = encoder(wave, size, all_states=True, batch_invariant=invariant)
        # HuBERT's rule may count two in a batch.
        assert frames.min() >= 1
        assert not invariant or frames.tolist() == [15, 1, 1, 1][rows]
        for state in states:
            inside = torch.arange(state.shape[1]) < frames.unsqueeze(1)
            assert state[inside].isfinite().all()


@settings(max_examples=20, deadline=None)
@given(
    widths=st.lists(st.integers(0, 5), min_size=1, max_size=6).filter(any),
    kernel=st.integers(1, 8),
)
def test_uneven_positional_groups_against_one_convolution_per_group(widths, kernel):
    torch.manual_seed(0)
    layer = PositionalConv(PositionalConfig(kernel, widths, weight_norm=False)).double()
    x = torch.randn(2, 11, sum(widths), dtype=torch.float64)
    outputs, start = [], 0
    for width, weight in zip(widths, layer.group_weights(), strict=True):
        if width:
            part = x[..., start : start + width].transpose(1, 2)
            outputs.append(F.conv1d(part, weight, padding=kernel // 2)[..., :11])
            start += width
    expected = F.gelu(torch.cat(outputs, 1).transpose(1, 2) + layer.bias)
    assert torch.allclose(F.gelu(layer(x)), expected)


def test_configuration_survives_a_round_trip():
    config = replace(small_config("large"), length_rule="chunk", first_state="projected")
    assert EncoderConfig.from_dict(config.to_dict()) == config


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"heads": [4]}, "heads for 1 layers"),
        ({"hidden_size": 60}, "group_widths sum to 64"),
        ({"widht": 3}, "no option widht"),
    ],
)
def test_inconsistent_configurations_are_refused(change, message):
    with pytest.raises(HJPruneError, match=message):
        EncoderConfig.from_dict(small_config().to_dict() | change)


def test_incomplete_configurations_are_refused():
    values = small_config().to_dict()
    del values["positional"]
    with pytest.raises(HJPruneError, match="incomplete: 'positional'"):
        EncoderConfig.from_dict(values)


@pytest.mark.parametrize("style", ["base", "large"])
@pytest.mark.parametrize(
    "lengths", [[70000, 52345], [3000, 2500, 1999], [400], [90000], [4000] * 12]
)
def test_blocks_give_what_whole_layers_give(style, lengths, monkeypatch):
    calls = []
    in_blocks = FeatureExtractor.in_blocks
    monkeypatch.setattr(FeatureExtractor, "in_blocks", lambda *a: calls.append(1) or in_blocks(*a))
    encoder = random_encoder(small_config(style))
    gates = random_pruner(encoder.config, target_sparsity=0.3)()
    wave, sizes = padded_batch(lengths)
    for values in (None, gates):
        # In gradient mode nothing is computed in blocks.
        expected, _ = encoder(wave, sizes, values)
        assert calls == []
        with torch.no_grad():
            actual, _ = encoder(wave, sizes, values)
        assert calls.pop() == 1
        for row, frames in enumerate(encoder.frame_lengths(sizes, wave.shape[1], 0).tolist()):
            assert (expected[0][row, :frames] - actual[0][row, :frames]).abs().max() <= 1e-5


@pytest.mark.parametrize("grad", [False, True])
@pytest.mark.parametrize("style", ["base", "large"])
@pytest.mark.parametrize("family", FAMILIES)
def test_utterances_of_a_batch_as_if_alone(family, style, grad):
    """Each gets the states that the model gives it without padding, however short it is."""
    encoder = family_encoder(family, style)
    gates = random_pruner(encoder.config).evaluation_gates()
    sizes = [16000, 8123, 380, 15999, 900]
    waves, lengths = padded_batch(sizes)
    # An offset, which the norm over time takes off again.
    waves = torch.where(torch.arange(16000) < lengths[:, None], waves + 0.3, 0.0)
    for chosen in (None, gates):
        with torch.set_grad_enabled(grad):
            states, frames = encoder(waves, lengths, chosen, all_states=True, batch_invariant=True)
        for row, size in enumerate(sizes):
            with torch.no_grad():
                single, count = encoder(
                    waves[row : row + 1, :size], lengths[row : row + 1], chosen, all_states=True
                )
            assert frames[row] == count[0] == single[0].shape[1]
            for state, expected in zip(states, single, strict=True):
                torch.testing.assert_close(
                    state[row, : frames[row]].detach(), expected[0], atol=1e-4, rtol=1e-4
                )


def test_folded_norm_of_channels_with_little_energy():
    """A loud low tone with an offset, and filters that let next to nothing of it through."""
    encoder = random_encoder(small_config("base"))
    extractor = encoder.feature_extractor
    time = torch.arange(30000) / 16000
    wave = (0.5 + 0.4 * torch.sin(2 * torch.pi * 50 * time) + 1e-3 * torch.randn(30000))[None]
    with torch.no_grad():
        first = extractor.layers[0].conv.weight
        first.copy_(torch.tensor([1.0, -3, 3, -1, 1, -3, 3, -1, 0, 0]).expand_as(first))
        first.mul_(torch.rand(len(first), 1, 1) + 0.5)
        folded = extractor(wave, NO_GATES)
    plain = extractor.as_convolutions(wave, NO_GATES)
    # Here the GroupNorm of a double model is in double precision too, folded into the filters.
    with torch.no_grad():
        exact = copy.deepcopy(extractor).double()(wave.double(), NO_GATES)
    for result in (folded, plain):
        assert (result - exact).abs().max() <= 1e-3 * exact.abs().max()


@settings(max_examples=40, deadline=None)
@given(
    features=st.integers(2, 20),
    closed=st.floats(0, 1),
    seed=st.integers(0, 1000),
    scale_output=st.booleans(),
)
def test_gradients_of_the_norm_over_kept_features(features, closed, seed, scale_output):
    generator = torch.Generator().manual_seed(seed)
    norm = FeatureNorm(features).double()
    with torch.no_grad():
        norm.weight.normal_(generator=generator)
        norm.bias.normal_(generator=generator)
    value = torch.rand(features, generator=generator, dtype=torch.double) * 0.8 + 0.2
    value[torch.randperm(features, generator=generator)[: int(closed * (features - 1))]] = 0.0
    x = torch.randn(2, 3, features, generator=generator, dtype=torch.double, requires_grad=True)

    # Fixed here: a closed gate stays closed under gradcheck's small steps.
    kept = value != 0

    def run(x, weight, bias, value):
        gate = FeatureGate(value, kept.double())
        changed = {"weight": weight, "bias": bias}
        return torch.func.functional_call(norm, changed, (x, gate, scale_output))

    inputs = (x, norm.weight, norm.bias, value.requires_grad_())
    mean = x[..., kept].mean(-1, keepdim=True)
    spread = x[..., kept].var(-1, unbiased=False, keepdim=True)
    expected = (x - mean) / (spread + norm.eps).sqrt() * norm.weight + norm.bias
    expected = expected * value if scale_output else expected
    assert torch.allclose(run(*inputs), expected, rtol=0, atol=1e-9)
    assert torch.autograd.gradcheck(run, inputs)


def scaled(x, weight, bias, gate):
    """The product as autograd knows it."""
    return F.linear(x, weight * gate.repeat_interleave(weight.shape[1] // len(gate)), bias)


def operands(rows, units, dtype=torch.double):
    """Input, weight, bias and a gate of which one value is 0."""
    shapes = [(2, rows, 6), (8, 6), (8,), (units,)]
    tensors = [torch.randn(shape, dtype=dtype) for shape in shapes]
    tensors[-1].abs_()[1] = 0.0
    return [tensor.requires_grad_() for tensor in tensors]


@pytest.mark.parametrize("units", [6, 3, 2])
@pytest.mark.parametrize("rows", [1, 3, 9])
def test_products_with_gated_inputs(rows, units):
    inputs = operands(rows, units)
    expected = scaled(*inputs)
    assert torch.allclose(gated_linear(*inputs), expected, rtol=0, atol=1e-12)
    with torch.no_grad():
        assert torch.allclose(gated_linear(*inputs), expected, rtol=0, atol=1e-12)
    assert torch.autograd.gradcheck(gated_linear, tuple(inputs))
    direction = torch.randn_like(expected)
    for actual, reference in zip(
        torch.autograd.grad(gated_linear(*inputs), inputs, direction),
        torch.autograd.grad(expected, inputs, direction),
        strict=True,
    ):
        assert torch.allclose(actual, reference, rtol=0, atol=1e-12)


@pytest.mark.parametrize("units", [6, 2])
@pytest.mark.parametrize("rows", [3, 9])
def test_products_with_gated_inputs_in_half_precision(rows, units):
    inputs = operands(rows, units, torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        expected, actual = scaled(*inputs), gated_linear(*inputs)
    assert actual.dtype == expected.dtype == torch.bfloat16
    assert (actual - expected).abs().max() <= 0.05 * expected.abs().max()
    for ours, reference in zip(
        torch.autograd.grad(actual.float().square().sum(), inputs),
        torch.autograd.grad(expected.float().square().sum(), inputs),
        strict=True,
    ):
        assert ours.dtype == torch.float32
        assert (ours - reference).abs().max() <= 0.05 * reference.abs().max()


def test_products_with_gated_inputs_keep_nothing_of_their_own():
    inputs = operands(9, 6)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        gated_linear(*inputs)
    given = {tensor.untyped_storage().data_ptr() for tensor in inputs}
    assert kept and {tensor.untyped_storage().data_ptr() for tensor in kept} <= given
