"""Our encoder against s3prl's own forward, on checkpoints in s3prl's format."""

import importlib
import json
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
import torchaudio
import transformers
from models import FAMILIES, family_config, small_config

from espnet_hjprune.errors import HJPruneError
from espnet_hjprune.nn import ConvLayerConfig, SpeechEncoder
from espnet_hjprune.pruning import config_counts, encoder_cost
from espnet_hjprune.upstream import architecture, load_upstream
from espnet_hjprune.upstream.fairseq_format import (
    convert_weights,
    fairseq_weights,
    format_conv_layers,
    parse_conv_layers,
)
from espnet_hjprune.upstream.random_checkpoint import save_random_checkpoint
from espnet_hjprune.upstream.s3prl_names import upstream_family

# What s3prl calls the upstream of a family that is loaded from a file or directory.
NAMES = {family: f"{family}_local" for family in FAMILIES} | {
    "ungated": "wavlm_local",
    "hf_wav2vec2": "hf_wav2vec2_custom",
    "hf_hubert": "hf_hubert_custom",
    "hf_wavlm": "hf_wavlm_custom",
}


def their_states(name: str, path: str, waves: list[torch.Tensor]) -> list[torch.Tensor]:
    """Hidden states of s3prl's upstream, or of transformers, which s3prl wraps."""
    if name.startswith("hf_"):
        extractor = transformers.Wav2Vec2FeatureExtractor.from_pretrained(path)
        batch = extractor(
            [wave.numpy() for wave in waves],
            sampling_rate=16000,
            return_tensors="pt",
            padding=True,
            return_attention_mask=True,
        )
        output = transformers.AutoModel.from_pretrained(path).eval()(
            **batch, output_hidden_states=True
        )
        # Whether the last of the hidden states is the output depends on the release.
        return [*output.hidden_states[:-1], output.last_hidden_state]
    # Not from s3prl.hub, which does not import beside every torchaudio.
    hubconf = importlib.import_module(f"s3prl.upstream.{upstream_family(name)}.hubconf")
    upstream = getattr(hubconf, name)(ckpt=path).eval()
    states = list(upstream(waves)["hidden_states"])
    if name == "distiller_local":
        # The projected frames are no state of ours, and what follows are prediction heads.
        states = [torch.empty(0), *states[1 : 1 + len(upstream.model.model.encoder.layers)]]
    return states


def compare_with_s3prl(name: str, path: str, waves: list[torch.Tensor]) -> float:
    """Largest difference of any hidden state on valid frames."""
    config, state = load_upstream(name, path)
    ours = SpeechEncoder(config).eval()
    ours.load_state_dict(state)
    lengths = torch.tensor([len(w) for w in waves])
    padded = torch.nn.utils.rnn.pad_sequence(waves, batch_first=True)
    with torch.no_grad():
        expected = their_states(name, path, waves)
        states, frames = ours(padded, lengths, all_states=True)
    assert len(expected) == len(states)
    worst = 0.0
    for e, s in zip(expected, states, strict=True):
        for row, length in enumerate(frames.tolist() if e.numel() else []):
            worst = max(worst, (e[row, :length] - s[row, :length]).abs().max().item())
    return worst


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("style", ["base", "large"])
def test_hidden_states_equal_s3prl(tmp_path, family, style):
    if (family, style) == ("distiller", "large"):
        pytest.skip("refused: its states are not normalised")
    path = str(tmp_path / "upstream.pt")
    config = family_config(family, style)
    kind = "wavlm" if family == "ungated" else family
    save_random_checkpoint(config, kind, path, seed=3, spread=0.2)
    loaded, _ = load_upstream(NAMES[family], path)
    assert replace(loaded, normalize_epsilon=config.normalize_epsilon) == config
    torch.manual_seed(1)
    single = [torch.randn(16123) * 0.1]
    padded = [torch.randn(n) * 0.1 for n in (16000, 9871, 12345)]
    assert compare_with_s3prl(NAMES[family], path, single) < 1e-4
    assert compare_with_s3prl(NAMES[family], path, padded) < 1e-4


@pytest.mark.parametrize(
    ("name", "family"),
    [
        ("wav2vec2_base", "wav2vec2"),
        ("hubert_base", "hubert"),
        ("wavlm_base_plus", "wavlm"),
        ("wavlm_large", "wavlm"),
        ("unispeech_sat_base", "unispeech_sat"),
        ("data2vec_base", "data2vec"),
        ("distilhubert", "distiller"),
        ("wav2vec2_base", "hf_wav2vec2"),
        ("hubert_base", "hf_hubert"),
        ("wavlm_base_plus", "hf_wavlm"),
    ],
)
def test_full_size_equals_s3prl(tmp_path, name, family):
    path = str(tmp_path / "upstream.pt")
    save_random_checkpoint(architecture(name), family, path)
    torch.manual_seed(1)
    waves = [torch.randn(n) * 0.1 for n in (32000, 20000)]
    assert compare_with_s3prl(NAMES[family], path, waves) < 1e-4


@pytest.mark.parametrize("family", ["wav2vec2", "hubert", "wavlm", "data2vec"])
def test_weights_survive_the_way_back(tmp_path, family):
    path = tmp_path / "upstream.pt"
    save_random_checkpoint(family_config(family), family, path, spread=0.2)
    content = torch.load(path, weights_only=False)
    weights = content.get("model_weight", content.get("model"))
    config, state = load_upstream(NAMES[family], str(path))
    back = fairseq_weights(state, config)
    assert back.keys() <= weights.keys()
    for key, tensor in back.items():
        torch.testing.assert_close(tensor, weights[key], rtol=0, atol=0)
    again = convert_weights(back, config)
    assert again.keys() == state.keys()
    assert all(torch.equal(again[key], state[key]) for key in state)


@pytest.mark.parametrize(
    ("bundle", "name"),
    [
        ("WAV2VEC2_BASE", "wav2vec2_base"),
        ("WAV2VEC2_LARGE_LV60K", "wav2vec2_large"),
        ("WAV2VEC2_XLSR_300M", "xls_r_300m"),
        ("WAV2VEC2_XLSR_1B", "xls_r_1b"),
        ("HUBERT_BASE", "hubert_base"),
        ("HUBERT_LARGE", "hubert_large"),
        ("HUBERT_XLARGE", "hubert_xlarge"),
        ("WAVLM_BASE_PLUS", "wavlm_base_plus"),
        ("WAVLM_LARGE", "wavlm_large"),
    ],
)
def test_named_architectures_are_as_torchaudio_publishes_them(bundle, name):
    """Parameters of a model that torchaudio builds from the published hyper-parameters."""
    published = getattr(torchaudio.pipelines, bundle)
    params = {key: value for key, value in published._params.items() if "aux" not in key}
    make = torchaudio.models.wavlm_model if "WAVLM" in bundle else torchaudio.models.wav2vec2_model
    with torch.device("meta"):
        theirs = make(**params, aux_num_out=None)
        ours = SpeechEncoder(architecture(name))
    # The mask embedding belongs to the training, which torchaudio's models leave out.
    expected = sum(p.numel() for p in theirs.parameters()) + architecture(name).hidden_size
    assert sum(p.numel() for p in ours.parameters()) == expected
    config = architecture(name)
    assert encoder_cost(config, config_counts(config), "params", 160_000) == expected
    assert config.normalize_input == published._normalize_waveform


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
        ("apc", None, r"apc cannot be pruned; supported are wav2vec2\*, .* hf_wavlm_custom"),
        ("mockingjay", None, "mockingjay cannot be pruned; supported are"),
        ("tera", None, "tera cannot be pruned; supported are"),
        ("hf_wavlm_custom", None, "needs a checkpoint"),
        ("hf_wavlm_custom", "/nowhere", "/nowhere is no directory with config.json"),
        ("hf_hubert_custom", "nobody/nothing", "nobody/nothing cannot be loaded as a hubert model"),
        ("wav2vec2_local", None, "needs a checkpoint"),
        ("wav2vec2_local", "nowhere.pt", "nowhere.pt does not exist"),
        ("wav2vec2_base_960", "some.pt", "wav2vec2_local"),
    ],
)
def test_wrong_upstreams_are_refused(name, path, message):
    with pytest.raises(HJPruneError, match=message):
        load_upstream(name, path)


def test_hugging_face_checkpoints_of_another_kind_are_refused(tmp_path):
    path = tmp_path / "checkpoint"
    save_random_checkpoint(family_config("hf_wavlm"), "hf_wavlm", path)
    with pytest.raises(HJPruneError, match=r"holds a wavlm model; .* takes hubert models"):
        load_upstream("hf_hubert_custom", str(path))
    (path / "preprocessor_config.json").unlink()
    assert load_upstream("hf_wavlm_custom", str(path))[0].normalize_input
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps(config | {"add_adapter": True}))
    with pytest.raises(HJPruneError, match=r"add_adapter=True|lacks the weight adapter"):
        load_upstream("hf_wavlm_custom", str(path))
    (path / "config.json").write_text(json.dumps(config | {"layer_norm_eps": 0.1}))
    with pytest.raises(HJPruneError, match=r"has layer_norm_eps=0\.1"):
        load_upstream("hf_wavlm_custom", str(path))
    (path / "config.json").write_text(json.dumps(config | {"intermediate_size": 95}))
    with pytest.raises(HJPruneError, match="cannot be loaded as a wavlm model"):
        load_upstream("hf_wavlm_custom", str(path))
    (path / "config.json").write_text(json.dumps(config))
    weights = (path / "model.safetensors").read_bytes()
    (path / "model.safetensors").write_bytes(weights[: len(weights) // 2])
    with pytest.raises(HJPruneError, match="cannot be loaded as a wavlm model"):
        load_upstream("hf_wavlm_custom", str(path))
    (path / "model.safetensors").unlink()
    with pytest.raises(HJPruneError, match="cannot be loaded as a wavlm model"):
        load_upstream("hf_wavlm_custom", str(path))


def test_unsupported_options_of_checkpoints_are_named(tmp_path):
    path = tmp_path / "upstream.pt"
    save_random_checkpoint(family_config("distiller"), "distiller", path)
    content = torch.load(path, weights_only=False)
    content["Config"]["distiller"]["layer_norm_first"] = True
    torch.save(content, path)
    with pytest.raises(HJPruneError, match="has layer_norm_first=True; pruning supports False"):
        load_upstream("distiller_local", str(path))


def test_upstream_names_are_read_without_importing_s3prl():
    code = (
        "import sys; from espnet_hjprune.upstream.s3prl_names import upstream_names as names; "
        "print(names()['wavlm_large'], names()['apc'], 's3prl' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["wavlm", "apc", "False"]


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
