"""Our encoder against s3prl's own forward, on checkpoints in s3prl's format."""

import pytest
import torch
from models import small_config

from espnet_hjprune.errors import HJPruneError
from espnet_hjprune.nn import ConvLayerConfig, SpeechEncoder
from espnet_hjprune.upstream import architecture, load_upstream
from espnet_hjprune.upstream.fairseq_format import format_conv_layers, parse_conv_layers
from espnet_hjprune.upstream.random_checkpoint import save_random_checkpoint


def compare_with_s3prl(name: str, path: str, waves: list[torch.Tensor]) -> float:
    """Largest difference of any hidden state on valid frames."""
    from s3prl.nn import S3PRLUpstream

    theirs = S3PRLUpstream(name, path_or_url=path).upstream.eval()
    config, state = load_upstream(name, path)
    ours = SpeechEncoder(config).eval()
    ours.load_state_dict(state)
    lengths = torch.tensor([len(w) for w in waves])
    padded = torch.nn.utils.rnn.pad_sequence(waves, batch_first=True)
    with torch.no_grad():
        expected = theirs(waves)["hidden_states"]
        states, frames = ours(padded, lengths, all_states=True)
    assert len(expected) == len(states)
    worst = 0.0
    for e, s in zip(expected, states, strict=True):
        for row, length in enumerate(frames.tolist()):
            worst = max(worst, (e[row, :length] - s[row, :length]).abs().max().item())
    return worst


@pytest.mark.parametrize("family", ["wav2vec2", "hubert"])
@pytest.mark.parametrize("style", ["base", "large"])
def test_hidden_states_equal_s3prl(tmp_path, family, style):
    path = str(tmp_path / "upstream.pt")
    save_random_checkpoint(small_config(style, family == "hubert"), family, path)
    torch.manual_seed(1)
    single = [torch.randn(16123) * 0.1]
    padded = [torch.randn(n) * 0.1 for n in (16000, 9871, 12345)]
    assert compare_with_s3prl(f"{family}_local", path, single) < 1e-4
    assert compare_with_s3prl(f"{family}_local", path, padded) < 1e-4


def test_base_size_equals_s3prl(tmp_path):
    path = str(tmp_path / "upstream.pt")
    save_random_checkpoint(architecture("wav2vec2_base"), "wav2vec2", path)
    torch.manual_seed(1)
    waves = [torch.randn(n) * 0.1 for n in (32000, 20000)]
    assert compare_with_s3prl("wav2vec2_local", path, waves) < 1e-4


def test_cnn_as_wide_as_transformer_gets_an_identity_projection(tmp_path):
    config = small_config("base", False)
    config.conv_layers[-1] = ConvLayerConfig(64, 2, 2)
    path = str(tmp_path / "upstream.pt")
    save_random_checkpoint(config, "wav2vec2", path)
    assert compare_with_s3prl("wav2vec2_local", path, [torch.randn(8000)]) < 1e-4


def test_published_conv_layer_texts_are_read():
    text = "[(512, 10, 5)] + [(512, 3, 2)] * 4 + [(512,2,2)] + [(512,2,2)]"
    layers = parse_conv_layers(text)
    assert [(c.channels, c.kernel, c.stride) for c in layers] == eval(text)
    assert parse_conv_layers(format_conv_layers(layers)) == layers
    with pytest.raises(HJPruneError, match="conv_feature_layers"):
        parse_conv_layers("[(512, 10, 5)] * n")


@pytest.mark.parametrize(
    ("name", "path", "message"),
    [
        ("no_such_upstream", None, "no upstream called no_such_upstream"),
        ("wav2vec2_bse_960", None, "wav2vec2_base_960"),
        ("apc", None, "apc cannot be pruned"),
        ("wav2vec2_local", None, "needs a checkpoint"),
        ("wav2vec2_local", "nowhere.pt", "nowhere.pt does not exist"),
        ("wav2vec2_base_960", "some.pt", "wav2vec2_local"),
    ],
)
def test_wrong_upstreams_are_refused(name, path, message):
    with pytest.raises(HJPruneError, match=message):
        load_upstream(name, path)


def test_checkpoints_of_another_kind_are_refused(tmp_path):
    hubert = str(tmp_path / "hubert.pt")
    save_random_checkpoint(small_config("base", True), "hubert", hubert)
    text = tmp_path / "text.pt"
    text.write_text("not a checkpoint")
    weights = tmp_path / "weights.pt"
    torch.save({"weight": torch.zeros(2)}, weights)
    for path in (hubert, str(text), str(weights)):
        with pytest.raises(HJPruneError, match="cannot be read as a wav2vec2 checkpoint"):
            load_upstream("wav2vec2_local", path)
