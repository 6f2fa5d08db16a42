"""Masking, lengths and uneven shapes of the encoder."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from models import padded_batch, random_encoder, small_config

from espnet_hjprune.errors import HJPruneError
from espnet_hjprune.nn import (
    DropoutConfig,
    EncoderConfig,
    MaskingConfig,
    PositionalConfig,
    SpeechEncoder,
)
from espnet_hjprune.nn.masking import sample_spans
from espnet_hjprune.nn.norms import normalize_utterances
from espnet_hjprune.nn.positional import PositionalConv

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
        x = encoder.project(x, _no_gates()).masked_fill(~inside.unsqueeze(-1), 0.0)
        x = x + encoder.positional(x)
        return encoder.transformer(x, inside[:, None, None], _no_gates())[-1]

    with torch.no_grad():
        assert torch.equal(run(features)[1, :12], run(changed)[1, :12])


def _no_gates():
    from espnet_hjprune.nn import GateValues

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
    normed = normalize_utterances(wave * 3 + 0.5 * (wave != 0), lengths)
    for row, length in enumerate(lengths.tolist()):
        source = (wave * 3 + 0.5 * (wave != 0))[row, :length]
        assert (normed[row, :length] - F.layer_norm(source, (length,))).abs().max() < 1e-5
        assert not normed[row, length:].any()


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
    config = small_config("large", hubert=True)
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
