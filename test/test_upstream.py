"""Our encoder against s3prl's own forward, on checkpoints in s3prl's format."""

import json
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torchaudio
import transformers
from models import FAMILIES, family_config, small_config

from espnet_hjprune import upstream
from espnet_hjprune.errors import HJPruneError
from espnet_hjprune.nn.config import ConvLayerConfig
from espnet_hjprune.nn.encoder import SpeechEncoder
from espnet_hjprune.pruning.cost import config_counts, encoder_cost
from espnet_hjprune.synthetic.pretrain import PretrainConfig, pretrain
from espnet_hjprune.upstream import ARCHITECTURES, architecture, read_upstream
from espnet_hjprune.upstream.fairseq_format import (
    convert_weights,
    fairseq_weights,
    format_conv_layers,
    parse_conv_layers,
)
from espnet_hjprune.upstream.families import FAMILIES as REGISTERED
from espnet_hjprune.upstream.families import FORMS, family_of
from espnet_hjprune.upstream.huggingface_form import HuggingFaceForm
from espnet_hjprune.upstream.names import find_form
from espnet_hjprune.upstream.random_checkpoint import save_random_checkpoint

# The upstream of a form that is loaded from a file or directory.
NAMES = {
    key: form.names if isinstance(form, HuggingFaceForm) else f"{key}_local"
    for key, form in FORMS.items()
} | {"ungated": "wavlm_local"}


def their_model(name: str, path: str) -> Callable[[list[torch.Tensor]], list[torch.Tensor]]:
    """Hidden states by s3prl's upstream, or by transformers, which s3prl wraps."""
    form = find_form(name)
    if isinstance(form, HuggingFaceForm):
        extractor = transformers.Wav2Vec2FeatureExtractor.from_pretrained(path)
        model = transformers.AutoModel.from_pretrained(path).eval()

        def states_of_transformers(waves):
            batch = extractor(
                [wave.numpy() for wave in waves],
                sampling_rate=16000,
                return_tensors="pt",
                padding=True,
                return_attention_mask=True,
            )
            output = model(**batch, output_hidden_states=True)
            # Whether the last of the hidden states is the output depends on the release.
            return [*output.hidden_states[:-1], output.last_hidden_state]

        return states_of_transformers
    upstream = form.expert(path).eval()

    def states_of_s3prl(waves):
        states = list(upstream(waves)["hidden_states"])
        if name == "distiller_local":
            # The projected frames are no state of ours, and what follows are prediction heads.
            states = [torch.empty(0), *states[1 : 1 + len(upstream.model.model.encoder.layers)]]
        return states

    return states_of_s3prl


def compare_with_s3prl(name: str, path: str, *batches: list[torch.Tensor]) -> float:
    """Largest difference of any hidden state on valid frames, over batches of waves."""
    config, state = read_upstream(name, path)
    ours = SpeechEncoder(config).eval()
    ours.load_state_dict(state)
    theirs = their_model(name, path)
    worst = 0.0
    for waves in batches:
        lengths = torch.tensor([len(w) for w in waves])
        padded = torch.nn.utils.rnn.pad_sequence(waves, batch_first=True)
        with torch.no_grad():
            expected = theirs(waves)
            states, frames = ours(padded, lengths, all_states=True)
        assert len(expected) == len(states)
        for e, s in zip(expected, states, strict=True):
            for row, length in enumerate(frames.tolist() if e.numel() else []):
                worst = max(worst, (e[row, :length] - s[row, :length]).abs().max().item())
    return worst


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("style", ["base", "large"])
def test_hidden_states_equal_s3prl(tmp_path, family, style):
    path = str(tmp_path / "upstream.pt")
    config = family_config(family, style)
    kind = "wavlm" if family == "ungated" else family
    save_random_checkpoint(config, kind, path, seed=3, spread=0.2)
    loaded, _ = read_upstream(NAMES[family], path)
    assert replace(loaded, normalize_epsilon=config.normalize_epsilon) == config
    torch.manual_seed(1)
    single = [torch.randn(16123) * 0.1]
    padded = [torch.randn(n) * 0.1 for n in (16000, 9871, 12345)]
    assert compare_with_s3prl(NAMES[family], path, single, padded) < 1e-4


def full_sizes() -> list[tuple[str, str]]:
    """Of every family the first of its architectures in every form, and what differs more."""
    first = [
        (next(iter(family.architectures)), form.key)
        for family in REGISTERED
        for form in family.forms
    ]
    more = ["wavlm_large", "lighthubert_stage1"]
    return first + [(name, family_of(name).s3prl.key) for name in more]


@pytest.mark.parametrize(("name", "family"), full_sizes())
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
    weights = torch.load(path, weights_only=False)[FORMS[family].weight_key]
    config, state = read_upstream(NAMES[family], str(path))
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
    config = small_config("base")
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
        read_upstream(name, path)


def test_hugging_face_checkpoints_of_another_kind_are_refused(tmp_path):
    path = tmp_path / "checkpoint"
    save_random_checkpoint(family_config("hf_wavlm"), "hf_wavlm", path)
    with pytest.raises(HJPruneError, match=r"holds a wavlm model; .* takes hubert models"):
        read_upstream("hf_hubert_custom", str(path))
    (path / "preprocessor_config.json").unlink()
    assert read_upstream("hf_wavlm_custom", str(path))[0].normalize_input
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps(config | {"add_adapter": True}))
    with pytest.raises(HJPruneError, match=r"add_adapter=True|lacks 6 weights, such as adapter"):
        read_upstream("hf_wavlm_custom", str(path))
    (path / "config.json").write_text(json.dumps(config | {"layer_norm_eps": 0.1}))
    with pytest.raises(HJPruneError, match=r"has layer_norm_eps=0\.1"):
        read_upstream("hf_wavlm_custom", str(path))
    (path / "config.json").write_text(json.dumps(config | {"intermediate_size": 95}))
    with pytest.raises(HJPruneError, match="cannot be loaded as a wavlm model"):
        read_upstream("hf_wavlm_custom", str(path))
    (path / "config.json").write_text(json.dumps(config))
    weights = (path / "model.safetensors").read_bytes()
    (path / "model.safetensors").write_bytes(weights[: len(weights) // 2])
    with pytest.raises(HJPruneError, match="cannot be loaded as a wavlm model"):
        read_upstream("hf_wavlm_custom", str(path))
    (path / "model.safetensors").unlink()
    with pytest.raises(HJPruneError, match="cannot be loaded as a wavlm model"):
        read_upstream("hf_wavlm_custom", str(path))


@pytest.mark.parametrize(
    ("family", "places"),
    [("distiller", ("Config", "distiller")), ("lighthubert", ("cfg", "model"))],
)
def test_unsupported_options_of_checkpoints_are_named(tmp_path, family, places):
    path = tmp_path / "upstream.pt"
    save_random_checkpoint(family_config(family), family, path)
    content = torch.load(path, weights_only=False)
    content[places[0]][places[1]]["layer_norm_first"] = True
    torch.save(content, path)
    with pytest.raises(HJPruneError, match="has layer_norm_first=True; pruning supports False"):
        read_upstream(f"{family}_local", str(path))


def test_upstream_names_are_read_without_importing_s3prl():
    code = (
        "import sys; from espnet_hjprune.upstream.names import upstream_names as names; "
        "print(names()['wavlm_large'], names()['apc'], 's3prl' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["wavlm", "apc", "False"]


def test_checkpoints_of_another_kind_are_refused(tmp_path):
    hubert = str(tmp_path / "hubert.pt")
    save_random_checkpoint(family_config("hubert"), "hubert", hubert)
    text = tmp_path / "text.pt"
    text.write_text("not a checkpoint")
    weights = tmp_path / "weights.pt"
    torch.save({"weight": torch.zeros(2)}, weights)
    for path in (hubert, str(text), str(weights)):
        with pytest.raises(HJPruneError, match="cannot be read as a wav2vec2 checkpoint"):
            read_upstream("wav2vec2_local", path)


def test_families_of_named_architectures():
    assert family_of("wavlm_base_plus").s3prl.key == "wavlm"
    assert family_of("xls_r_300m").s3prl.key == "wav2vec2"
    assert family_of("distilhubert").s3prl.key == "distiller"
    assert family_of("hubert_large").s3prl.key == "hubert"
    names = [name for family in REGISTERED for name in family.architectures]
    assert sorted(names) == sorted(set(names)) == sorted(ARCHITECTURES)


def test_only_certain_widths_of_supernets_are_made(tmp_path):
    with pytest.raises(HJPruneError, match="no subnet of width 64; s3prl runs those of 768, 640"):
        save_random_checkpoint(small_config(), "lighthubert", tmp_path / "upstream.pt")


def test_a_subnet_cannot_be_trained_into_the_file_of_its_supernet(tmp_path):
    path = tmp_path / "upstream.pt"
    save_random_checkpoint(family_config("lighthubert"), "lighthubert", path)
    with pytest.raises(HJPruneError, match="lighthubert_local runs a part of what"):
        pretrain("lighthubert_local", path, path, tmp_path, "text", PretrainConfig())
    with pytest.raises(HJPruneError, match="hf_hubert_custom has no checkpoint file of s3prl"):
        pretrain("hf_hubert_custom", path, path, tmp_path, "text", PretrainConfig())


def test_families_are_named_in_their_files_only():
    """Anything else reads them from the registry."""
    root = Path(upstream.__file__).parents[1]
    names = {form.key for form in FORMS.values()} | set(ARCHITECTURES)
    allowed = {
        # The default of an option.
        "bin/bench.py": {"wav2vec2_base"},
        "bin/gpu_figures.py": {"wav2vec2_base", "wav2vec2_large"},
        # A task of ESPnet that is called as a family is.
        "model/espnet_config.py": {"hubert"},
        # The default of an option.
        "recipe/options.py": {"wav2vec2_mini"},
    }
    for path in root.rglob("*.py"):
        place = path.relative_to(root)
        words = set(re.findall(r"[\"'](\w+)[\"']", path.read_text(encoding="utf-8")))
        if "families" not in place.parts:
            assert words & names <= allowed.get(place.as_posix(), set()), place


def without_s3prl(code: str) -> str:
    """Output of code that runs where s3prl cannot be found."""
    hide = (
        "import importlib.util, sys\n"
        "find = importlib.util.find_spec\n"
        "importlib.util.find_spec = lambda name, *a: None if name == 's3prl' else find(name, *a)\n"
        "sys.modules['s3prl'] = None\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", hide + code], capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def test_hugging_face_and_architectures_need_no_s3prl(tmp_path):
    save_random_checkpoint(family_config("hf_hubert"), "hf_hubert", tmp_path / "model")
    assert (
        without_s3prl(
            "from espnet_hjprune.upstream import ARCHITECTURES, architecture, read_upstream\n"
            f"config, _ = read_upstream('hf_hubert_custom', {str(tmp_path / 'model')!r})\n"
            "print(config.hidden_size, architecture('hubert_base').hidden_size)"
        )
        == "64 768"
    )
    assert without_s3prl(
        "from espnet_hjprune.errors import HJPruneError\n"
        "from espnet_hjprune.upstream import read_upstream\n"
        "try:\n"
        "    read_upstream('hubert_base')\n"
        "except HJPruneError as error:\n"
        "    print(error)"
    ).startswith("s3prl is not installed; install it (pip install s3prl)")


@pytest.mark.parametrize("layer", [0, 1])
def test_what_a_state_does_not_depend_on_is_frozen(layer):
    """Also where the first state stands before the positional embedding."""
    for family in REGISTERED:
        encoder = SpeechEncoder(family_config(family.s3prl.key)).train()
        encoder.freeze_above(layer)
        states, _ = encoder(torch.randn(1, 4000), torch.tensor([4000]), all_states=True)
        states[layer].square().sum().backward()
        unused = [n for n, p in encoder.named_parameters() if p.requires_grad and p.grad is None]
        assert unused == []
