"""Checkpoints that people bring: what they say of themselves, what they lack, what they are."""

from __future__ import annotations

import argparse
import hashlib
import importlib
import json
import logging
import os
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
import transformers
from models import family_config, small_config
from safetensors.torch import load_file, save_file
from test_upstream import compare_with_s3prl

from espnet_hjprune.errors import HJPruneError
from espnet_hjprune.model.upstream import SpeechUpstream
from espnet_hjprune.model.upstream_options import UpstreamOptions
from espnet_hjprune.upstream import ReadOptions, read_upstream
from espnet_hjprune.upstream.download import address_of
from espnet_hjprune.upstream.families import FORMS
from espnet_hjprune.upstream.huggingface_form import HuggingFaceForm
from espnet_hjprune.upstream.names import upstream_names
from espnet_hjprune.upstream.random_checkpoint import save_random_checkpoint
from espnet_hjprune.upstream.s3prl_form import S3prlForm

# Raw checkpoints of fairseq


def raw_fairseq(path: Path, content: dict[str, Any]) -> Path:
    """A checkpoint as a training of fairseq leaves it, of a model that s3prl has."""
    save_random_checkpoint(small_config(), "wav2vec2", path)
    converted = torch.load(path)
    torch.save(content | {"model": converted["model_weight"]}, path)
    return path


OLD = {
    "args": argparse.Namespace(arch="wav2vec2", conv_feature_layers="[(512, 10, 5)]"),
    "optimizer_history": [],
    "extra_state": {},
    "last_optimizer_state": None,
}
NEW = {"args": None, "cfg": {"task": {"_name": "audio_pretraining"}, "model": {}}, "task_state": {}}


@pytest.mark.parametrize("content", [OLD, NEW], ids=["old", "new"])
@pytest.mark.parametrize("family", ["wav2vec2", "hubert", "data2vec"])
def test_raw_checkpoints_of_fairseq_must_be_converted(tmp_path, family: str, content):
    path = raw_fairseq(tmp_path / "wav2vec_small.pt", content)
    with pytest.raises(HJPruneError) as refused:
        read_upstream(f"{family}_local", str(path))
    command = f"python3 -m s3prl.upstream.{family}.convert {path} --output_dir converted"
    assert command in str(refused.value) and "converted/wav2vec_small.pt" in str(refused.value)
    assert importlib.util.find_spec(f"s3prl.upstream.{family}.convert")


def test_fairseqs_own_classes_are_recognised(tmp_path, monkeypatch):
    """HuBERT's have the dictionary of its labels; fairseq is not needed to see that."""
    module = ModuleType("fairseq.data.dictionary")
    module.Dictionary = type("Dictionary", (), {"__module__": module.__name__})
    for name in ("fairseq", "fairseq.data", "fairseq.data.dictionary"):
        monkeypatch.setitem(sys.modules, name, module)
    labels = {"dictionaries": [module.Dictionary()]}
    path = raw_fairseq(tmp_path / "hubert_base_ls960.pt", NEW | {"task_state": labels})
    monkeypatch.undo()
    for options in (ReadOptions(), ReadOptions(trust_checkpoint=True)):
        with pytest.raises(HJPruneError, match=r"raw checkpoint of fairseq.*hubert\.convert"):
            read_upstream("hubert_local", str(path), options)


def test_fairseqs_checkpoints_are_none_of_families_without_converter(tmp_path):
    path = raw_fairseq(tmp_path / "upstream.pt", NEW)
    for family in ("wavlm", "distiller"):
        with pytest.raises(HJPruneError, match=rf"raw .* none of {family}; .*wav2vec2_local"):
            read_upstream(f"{family}_local", str(path))


def test_s3prls_converter_takes_what_the_message_says():
    command = [sys.executable, "-m", "s3prl.upstream.wav2vec2.convert", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "--output_dir" in done.stdout and "fairseq_ckpt" in done.stdout


# Downloads


@pytest.fixture
def no_network(monkeypatch):
    """Nothing answers: both of s3prl's libraries ask a proxy that is not there."""
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)


def downloading() -> dict[str, S3prlForm]:
    """Upstreams that bring their own checkpoint."""
    forms = {name: FORMS.get(key) for name, key in upstream_names().items()}
    return {
        name: form
        for name, form in forms.items()
        if isinstance(form, S3prlForm) and not form.needs_path(name)
    }


def test_every_download_has_an_address():
    addresses = {name: address_of(form.package, name) for name, form in downloading().items()}
    assert len(addresses) > 40
    for address in addresses.values():
        assert re.fullmatch(r"https://huggingface\.co/\S+/resolve/main/\S+\.(pt|ckpt)", address)
    own = "https://huggingface.co/s3prl/converted_ckpts/resolve/main"
    assert addresses["wav2vec2"] == addresses["wav2vec2_base_960"] == f"{own}/wav2vec_small.pt"
    assert addresses["hubert_large_ll60k"] == f"{own}/hubert_large_ll60k.pt"
    assert addresses["wavlm"] == addresses["wavlm_base_plus"] == f"{own}/wavlm_base_plus.pt"


@pytest.mark.parametrize(
    "name", ["wav2vec2_base_960", "hubert", "wavlm_large", "distilhubert", "data2vec_base_960"]
)
def test_downloads_are_those_of_s3prl(tmp_path, name: str, no_network):
    """s3prl finds a file where we had it downloaded to, so it is the one that s3prl wants."""
    import s3prl.util.download as downloads

    form = downloading()[name]
    checkpoint = tmp_path / "upstream.pt"
    save_random_checkpoint(family_config(form.key), form.key, checkpoint, spread=0.1)
    address = address_of(form.package, name)
    place = f"{hashlib.sha256(address.encode()).hexdigest()}.{Path(address).name}"
    (tmp_path / place).symlink_to(checkpoint)
    usual = downloads.get_dir()
    try:
        config, state = read_upstream(name, options=ReadOptions(str(tmp_path)))
        module = importlib.import_module(f"s3prl.upstream.{form.package}.hubconf")
        theirs = form.read(getattr(module, name)())
    finally:
        downloads.set_dir(usual)
    assert config == theirs[0]
    expected = read_upstream(f"{form.key}_local", str(checkpoint))[1]
    assert all(torch.equal(state[key], expected[key]) for key in expected)


def test_without_a_network_the_address_and_the_way_around_are_named(tmp_path):
    code = "from espnet_hjprune.bin import cli, profile; cli.run_command(profile.main)"
    proxy = {name: "http://127.0.0.1:9" for name in ("https_proxy", "HTTPS_PROXY")}
    command = [sys.executable, "-c", code, "--upstream", "wav2vec2_base_960"]
    environment = os.environ | proxy | {"HOME": str(tmp_path), "no_proxy": "", "NO_PROXY": ""}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    address = "https://huggingface.co/s3prl/converted_ckpts/resolve/main/wav2vec_small.pt"
    last = done.stderr.splitlines()[-1]
    assert last.startswith(f"error: {address} cannot be downloaded (")
    assert last.endswith(
        "give the file with --upstream wav2vec2_local --upstream_ckpt FILE (upstream: "
        "wav2vec2_local and path_or_url: FILE in a configuration)"
    )


def test_a_hub_name_without_a_network(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    wanted = r"nobody/nothing .*https://huggingface\.co/nobody/nothing.*--upstream_ckpt DIR"
    with pytest.raises(HJPruneError, match=wanted):
        read_upstream("hf_wavlm_custom", "nobody/nothing")


# Normalised audio


def large_wavlm(path: Path) -> Path:
    """A checkpoint whose states depend on the level of the audio, without its extractor's file."""
    save_random_checkpoint(family_config("hf_wavlm", "large"), "hf_wavlm", path, spread=0.2)
    (path / "preprocessor_config.json").unlink()
    return path


def save_processor(path: Path, normalize: bool) -> None:
    vocabulary = path / "vocab.json"
    vocabulary.write_text(json.dumps({"<pad>": 0, "<unk>": 1, "|": 2, "A": 3}))
    extractor = transformers.Wav2Vec2FeatureExtractor(do_normalize=normalize)
    tokenizer = transformers.Wav2Vec2CTCTokenizer(str(vocabulary))
    transformers.Wav2Vec2Processor(extractor, tokenizer).save_pretrained(path)


def write_options(path: Path, name: str, options: dict[str, Any]) -> None:
    kind = {"feature_extractor_type": "Wav2Vec2FeatureExtractor", "sampling_rate": 16000}
    if "feature_extractor" in options:
        options = {"feature_extractor": kind | options["feature_extractor"]}
    (path / name).write_text(json.dumps(kind | options))


LAYOUTS = {
    "processor": save_processor,
    "extractor": lambda path, normalize: transformers.Wav2Vec2FeatureExtractor(
        do_normalize=normalize
    ).save_pretrained(path),
    "old": lambda path, normalize: write_options(
        path, "preprocessor_config.json", {"do_normalize": normalize}
    ),
    "nested": lambda path, normalize: write_options(
        path, "processor_config.json", {"feature_extractor": {"do_normalize": normalize}}
    ),
    # A file of the processor that says nothing of the extractor, as releases between have it.
    "between": lambda path, normalize: (
        write_options(path, "preprocessor_config.json", {"do_normalize": normalize}),
        (path / "processor_config.json").write_text('{"processor_class": "Wav2Vec2Processor"}'),
    ),
    "contradiction": lambda path, normalize: (
        write_options(path, "preprocessor_config.json", {"do_normalize": not normalize}),
        write_options(
            path, "processor_config.json", {"feature_extractor": {"do_normalize": normalize}}
        ),
    ),
}


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_features_equal_those_of_transformers_on_its_own_extractor(tmp_path, layout, normalize):
    path = large_wavlm(tmp_path / "checkpoint")
    LAYOUTS[layout](path, normalize)
    assert read_upstream("hf_wavlm_custom", str(path))[0].normalize_input is normalize
    torch.manual_seed(1)
    # What is not normalised has another level and a constant part.
    waves = [[3.0 * torch.randn(9871) + 2.0]]
    assert compare_with_s3prl("hf_wavlm_custom", str(path), *waves) < 1e-4
    # Silently the other way round it would be far off.
    LAYOUTS["nested"](path, normalize)
    config, state = read_upstream(
        "hf_wavlm_custom", str(path), ReadOptions(None, False, not normalize)
    )
    other = SpeechUpstream(UpstreamOptions(architecture=config)).eval()
    right = SpeechUpstream(UpstreamOptions("hf_wavlm_custom", str(path))).eval()
    other.encoder.load_state_dict(state)
    with torch.no_grad():
        lengths = torch.tensor([len(waves[0][0])])
        found = [upstream(waves[0][0][None], lengths)[0] for upstream in (other, right)]
    assert (found[0] - found[1]).abs().max() > 1e-2


@pytest.mark.parametrize("given", [None, False, True])
def test_a_checkpoint_that_does_not_say(tmp_path, caplog, given: bool | None):
    path = str(large_wavlm(tmp_path / "checkpoint"))
    upstream = SpeechUpstream(
        UpstreamOptions.from_dict(
            {"upstream": "hf_wavlm_custom", "path_or_url": path, "normalize_input": given}
        )
    )
    assert upstream.config.normalize_input is (given is not False)
    warnings = [r.getMessage() for r in caplog.records if r.name == "root" and r.levelno > 20]
    if given is None:
        assert len(warnings) == 1 and path in warnings[0]
        assert "set normalize_input: true or false" in warnings[0]
    else:
        assert not warnings


@pytest.mark.parametrize("family", ["wav2vec2", "wavlm", "hf_hubert"])
def test_the_option_wins_with_a_warning(tmp_path, caplog, family: str):
    path = tmp_path / "checkpoint"
    save_random_checkpoint(family_config(family, "large"), family, path)
    form = FORMS[family]
    name = form.names if isinstance(form, HuggingFaceForm) else f"{family}_local"
    source = {"upstream": name, "path_or_url": str(path)}
    same = SpeechUpstream(UpstreamOptions.from_dict(source | {"normalize_input": True}))
    assert same.config.normalize_input and "contrary" not in caplog.text
    found = SpeechUpstream(UpstreamOptions.from_dict(source | {"normalize_input": False}))
    assert not found.config.normalize_input
    wanted = f"{path} says that audio is normalised, but normalize_input: false says the contrary"
    assert wanted in caplog.text
    # What is saved says so too.
    again = UpstreamOptions.from_dict({"architecture": found.config.to_dict()})
    assert not SpeechUpstream(again).config.normalize_input
    with pytest.raises(HJPruneError, match="normalize_input is 'no', which is neither true nor"):
        UpstreamOptions.from_dict(source | {"normalize_input": "no"})


# Weights that are missing


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A small checkpoint of transformers."""
    path = tmp_path / "checkpoint"
    save_random_checkpoint(family_config("hf_wav2vec2"), "hf_wav2vec2", path, spread=0.1)
    return path


def remove(path: Path, *names: str) -> None:
    weights = load_file(path / "model.safetensors")
    for name in names:
        del weights[name]
    save_file(weights, path / "model.safetensors", {"format": "pt"})


def test_a_missing_mask_embedding_is_zero(checkpoint, caplog):
    """Transformers draws one at every load."""
    complete = read_upstream("hf_wav2vec2_custom", str(checkpoint))[1]
    assert complete["mask_embedding"].any() and "mask embedding" not in caplog.text
    remove(checkpoint, "masked_spec_embed")
    states = []
    with caplog.at_level(logging.INFO):
        for seed in (1, 2):
            torch.manual_seed(seed)
            states.append(read_upstream("hf_wav2vec2_custom", str(checkpoint))[1])
    for state in states:
        assert not state["mask_embedding"].any()
        assert state["mask_embedding"].shape == (64,)
        assert all(
            torch.equal(state[name], tensor)
            for name, tensor in complete.items()
            if name != "mask_embedding"
        )
    said = [r.getMessage() for r in caplog.records if "mask embedding" in r.getMessage()]
    assert (
        said
        == [f"{checkpoint} has no mask embedding; it is zero, and trained where time is masked"] * 2
    )


def test_a_mask_embedding_is_read_where_transformers_would_not_use_it(checkpoint):
    expected = read_upstream("hf_wav2vec2_custom", str(checkpoint))[1]["mask_embedding"]
    config = json.loads((checkpoint / "config.json").read_text())
    (checkpoint / "config.json").write_text(json.dumps(config | {"mask_time_prob": 0.0}))
    found = read_upstream("hf_wav2vec2_custom", str(checkpoint))[1]["mask_embedding"]
    assert torch.equal(found, expected)


@pytest.mark.parametrize(
    "part",
    [
        "conv_layers.0.conv",
        "projection",
        "layer_norm",
        "k_proj.bias",
        "final_layer_norm",
        "pos_conv",
    ],
)
def test_no_other_weight_is_drawn(checkpoint, part: str):
    names = [name for name in load_file(checkpoint / "model.safetensors") if part in name]
    remove(checkpoint, names[-1])
    # transformers says it by its own name for it.
    with pytest.raises(HJPruneError, match=r"lacks 1 weights, such as \S+; renew the checkpoint"):
        read_upstream("hf_wav2vec2_custom", str(checkpoint))
