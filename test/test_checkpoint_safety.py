"""Checkpoints and archives from elsewhere are data: nothing in them is executed."""

from __future__ import annotations

import argparse
import io
import json
import os
import pickle
import re
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from espnet_runs import build_model, task_class, task_module
from models import family_config, small_config
from test_espnet_plugin import options as espnet_options

import espnet_hjprune as hj
from espnet_hjprune.bin import compact as compact_command
from espnet_hjprune.bin import decode as decode_command
from espnet_hjprune.bin import export as export_command
from espnet_hjprune.checkpoint_file import UnsafeCheckpointError, read_checkpoint
from espnet_hjprune.corpora import download
from espnet_hjprune.errors import HJPruneError
from espnet_hjprune.espnet.teacher import load_teacher
from espnet_hjprune.espnet.training_options import check_options
from espnet_hjprune.model.espnet_config import compact_config
from espnet_hjprune.model.loading import load_trained_upstream
from espnet_hjprune.model.upstream_options import READING_OPTIONS
from espnet_hjprune.nn.encoder import SpeechEncoder
from espnet_hjprune.synthetic.pretrain import PretrainConfig, pretrain
from espnet_hjprune.upstream import ReadOptions, read_upstream
from espnet_hjprune.upstream.families import FORMS
from espnet_hjprune.upstream.random_checkpoint import save_random_checkpoint
from espnet_hjprune.upstream.s3prl_form import S3prlForm

PACKAGE = Path(hj.__file__).parent
RUNS = re.escape("posix.system")


class Malicious:
    """Makes a file where it is unpickled."""

    def __init__(self, made: Path) -> None:
        self.made = made

    def __reduce__(self):
        return os.system, (f"touch {self.made}",)


@pytest.fixture
def made(tmp_path: Path) -> Path:
    """The file that a malicious pickle would make."""
    return tmp_path / "made"


def test_the_malicious_pickle_would_make_its_file(made: Path) -> None:
    pickle.loads(pickle.dumps(Malicious(made)))
    assert made.exists()


# Upstreams


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("key", [key for key, form in FORMS.items() if isinstance(form, S3prlForm)])
def test_no_form_of_s3prl_executes_anything(key: str, zipped: bool, tmp_path: Path, made: Path):
    path = tmp_path / "upstream.pt"
    form = FORMS[key]
    assert isinstance(form, S3prlForm)
    content: dict[str, Any] = {name: {} for name in (form.weight_key, *form.option_keys)}
    for place in (content, content[form.option_keys[0]]):
        place["extra"] = Malicious(made)
        torch.save(content, path, _use_new_zipfile_serialization=zipped)
        del place["extra"]
        with pytest.raises(UnsafeCheckpointError, match=rf"run {RUNS}.*trust_checkpoint: true"):
            read_upstream(f"{key}_local", str(path))
    with pytest.raises(HJPruneError, match=RUNS):
        pretrain(f"{key}_local", path, path, tmp_path, "text", PretrainConfig())
    assert not made.exists()


def test_a_trusted_checkpoint_is_read_whatever_it_holds(tmp_path: Path, made: Path, caplog):
    path = tmp_path / "upstream.pt"
    save_random_checkpoint(small_config(), "wav2vec2", path)
    config, expected = read_upstream("wav2vec2_local", str(path))
    torch.save(torch.load(path) | {"extra": Malicious(made)}, path)
    trusting = ReadOptions(trust_checkpoint=True)
    found_config, found = read_upstream("wav2vec2_local", str(path), trusting)
    assert made.exists() and f"{path} is trusted" in caplog.text
    assert found_config == config
    assert all(torch.equal(found[name], expected[name]) for name in expected)


@pytest.mark.parametrize("family", ["wav2vec2", "hubert", "wavlm", "distiller"])
def test_options_and_figures_of_a_training_need_no_trust(tmp_path: Path, family: str):
    """As DistilHuBERT is published: with the options of its training, which s3prl executes."""
    path = tmp_path / "upstream.pt"
    save_random_checkpoint(family_config(family), family, path)
    config, expected = read_upstream(f"{family}_local", str(path))
    more = {
        "Args": argparse.Namespace(lr=1e-3, names=["a"]),
        "Step": np.int64(3),
        "best": np.float64(0.5),
        "Optimizer": {"state": {0: {"step": torch.tensor(1.0)}}, "param_groups": [{"lr": 1e-3}]},
    }
    torch.save(torch.load(path) | more, path)
    found_config, found = read_upstream(f"{family}_local", str(path))
    assert found_config == config
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_options_of_a_namespace_are_read(tmp_path: Path):
    path = tmp_path / "upstream.pt"
    save_random_checkpoint(family_config("wavlm"), "wavlm", path)
    expected = read_upstream("wavlm_local", str(path))[0]
    content = torch.load(path)
    content["cfg"] = argparse.Namespace(**content["cfg"])
    content["cfg"].num_buckets = np.int64(content["cfg"].num_buckets)
    torch.save(content, path)
    assert read_upstream("wavlm_local", str(path))[0] == expected


def test_torchs_list_of_safe_classes_stays_as_it_was(tmp_path: Path):
    # It comes out of a set, whose order may change.
    before = set(torch.serialization.get_safe_globals())
    torch.save({"a": argparse.Namespace()}, tmp_path / "a.pt")
    assert read_checkpoint(tmp_path / "a.pt", "") == {"a": argparse.Namespace()}
    assert set(torch.serialization.get_safe_globals()) == before


# Hugging Face


@pytest.fixture
def hugging_face(tmp_path: Path) -> Path:
    """A small checkpoint of transformers."""
    path = tmp_path / "hubert"
    save_random_checkpoint(family_config("hf_hubert"), "hf_hubert", path)
    return path


@pytest.mark.parametrize("trust", [False, True])
def test_pickled_weights_of_transformers_are_not_executed(hugging_face, made: Path, trust: bool):
    from safetensors.torch import load_file

    weights = load_file(hugging_face / "model.safetensors")
    expected = read_upstream("hf_hubert_custom", str(hugging_face))[1]
    (hugging_face / "model.safetensors").unlink()
    torch.save(weights, hugging_face / "pytorch_model.bin")
    found = read_upstream("hf_hubert_custom", str(hugging_face))[1]
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    torch.save(weights | {"extra": Malicious(made)}, hugging_face / "pytorch_model.bin")
    with pytest.raises(HJPruneError, match=rf"pickle that would run {RUNS}.*model\.safetensors"):
        read_upstream("hf_hubert_custom", str(hugging_face), ReadOptions(trust_checkpoint=trust))
    assert not made.exists()


@pytest.mark.parametrize("model_type", ["hubert", "own_hubert"])
def test_code_beside_a_checkpoint_is_not_run(hugging_face, made: Path, model_type: str):
    (hugging_face / "own.py").write_text(f"open({str(made)!r}, 'w')\nclass Own: pass\n")
    config = json.loads((hugging_face / "config.json").read_text())
    config["model_type"] = model_type
    config["auto_map"] = {"AutoConfig": "own.Own", "AutoModel": "own.Own"}
    (hugging_face / "config.json").write_text(json.dumps(config))
    if model_type == "hubert":
        read_upstream("hf_hubert_custom", str(hugging_face))
    else:
        with pytest.raises(HJPruneError, match="cannot be loaded as a hubert model"):
            read_upstream("hf_hubert_custom", str(hugging_face))
    assert not made.exists()


def test_nobody_trusts_in_a_users_place():
    # What an export reads back is code that it has just written itself.
    own = set((PACKAGE / "export").rglob("*.py"))
    for path in set(PACKAGE.rglob("*.py")) - own:
        text = path.read_text(encoding="utf-8")
        assert "trust_remote_code=True" not in text and "trust_checkpoint=True" not in text, path
        if path.name != "checkpoint_file.py":
            assert "torch.load(" not in text and "pickle.load" not in text, path
        if path.name != "upstream_options.py":
            assert "allow_pickle" not in text, path


# Models of ESPnet


@pytest.fixture(scope="module")
def asr():
    """The ASR task module with the plugin registered."""
    return task_module("asr")


@pytest.fixture
def model_dir(tmp_path: Path, made: Path) -> Path:
    """A model directory as it is published, whose weights are a malicious pickle."""
    directory = tmp_path / "model"
    hj.save(SpeechEncoder(small_config()), directory)
    torch.save(
        torch.load(directory / "model.pth") | {"extra": Malicious(made)}, directory / "model.pth"
    )
    config = yaml.safe_load((directory / "config.yaml").read_text())
    config |= {
        "token_list": ["<blank>", "<unk>", "A", "<sos/eos>"],
        "model_conf": {"ctc_weight": 1.0},
    }
    (directory / "config.yaml").write_text(yaml.safe_dump(config))
    return directory


def arguments(directory: Path, *more: str) -> list[str]:
    """Options that name a model and the output."""
    files = {"train_config": "config.yaml", "model_file": "model.pth", "output_dir": "out"}
    named = [[f"--{option}", str(directory / file)] for option, file in files.items()]
    return [*(word for words in named for word in words), *more]


def decode(directory: Path) -> None:
    (directory / "wav.scp").write_text("a a.wav\n")
    decode_command.main(arguments(directory, "--wav_scp", str(directory / "wav.scp")))


def compact(directory: Path) -> None:
    config = yaml.safe_load((directory / "config.yaml").read_text())
    config["frontend_conf"]["pruning"] = {"target_sparsity": 0.4}
    (directory / "config.yaml").write_text(yaml.safe_dump(config))
    compact_command.main(arguments(directory))


def teacher(directory: Path) -> None:
    tokens = yaml.safe_load((directory / "config.yaml").read_text())["token_list"]
    load_teacher(task_class(task_module("asr")), str(directory / "model.pth"), tokens)


READERS = {
    "load": hj.load,
    "load_upstream": lambda directory: hj.load_upstream("hj_prune_local", str(directory)),
    "decode": decode,
    "export": lambda directory: export_command.main(
        ["--model_dir", str(directory), "--format", "onnx"]
    ),
    "export_encoder": lambda directory: export_command.main(
        ["--model_dir", str(directory), "--format", "onnx", "--encoder_only"]
    ),
    "compact": compact,
    "teacher": teacher,
}


@pytest.mark.parametrize("reader", READERS)
def test_no_reader_of_model_directories_executes_weights(reader: str, model_dir, made: Path):
    with pytest.raises(UnsafeCheckpointError, match=rf"run {RUNS}.*save its weights alone"):
        READERS[reader](model_dir)
    assert not made.exists() and not (model_dir / "out").exists()
    assert sorted(p.name for p in model_dir.iterdir() if p.name != "wav.scp") == [
        "config.yaml",
        "model.pth",
    ]


def test_checkpoints_of_lightning_are_not_executed(model_dir, made: Path, tmp_path):
    state = {"state_dict": {}, "hyper_parameters": {"args": argparse.Namespace(lr=1.0)}}
    file = tmp_path / "last.ckpt"
    torch.save(state | {"extra": Malicious(made)}, file)
    with pytest.raises(UnsafeCheckpointError, match=RUNS):
        load_trained_upstream(model_dir / "config.yaml", file)
    torch.save(state, file)
    with pytest.raises(HJPruneError, match="does not hold the weights"):
        load_trained_upstream(model_dir / "config.yaml", file)
    assert not made.exists()


def plain_options(checkpoint: str, **source: Any) -> dict[str, Any]:
    """A CTC model without gates."""
    config = espnet_options(checkpoint, model="espnet")
    del config["frontend_conf"]["pruning"]
    config["frontend_conf"]["frontend_conf"] |= source
    return config


@pytest.fixture
def checkpoint(tmp_path: Path) -> str:
    """A small upstream in s3prl's format."""
    path = tmp_path / "upstream.pt"
    save_random_checkpoint(small_config(), "wav2vec2", path)
    return str(path)


@pytest.mark.parametrize("mismatch", [False, True])
def test_init_param_is_not_executed(asr, checkpoint, tmp_path, made: Path, mismatch: bool):
    """ESPnet itself would; the check comes before."""
    config = plain_options(checkpoint)
    model = build_model(asr, config)
    torch.save(model.state_dict(), tmp_path / "model.pth")
    given = config | {"ignore_init_mismatch": mismatch}
    check_options(given | {"init_param": [f"{tmp_path}/model.pth:::ctc"]}, model)
    torch.save({"extra": Malicious(made)}, tmp_path / "model.pth")
    with pytest.raises(UnsafeCheckpointError, match=RUNS):
        check_options(given | {"init_param": [f"{tmp_path}/model.pth"]}, model)
    (tmp_path / "model.pth").write_text("nothing")
    with pytest.raises(HJPruneError, match="is no file of weights"):
        check_options(given | {"init_param": [f"{tmp_path}/model.pth"]}, model)
    with pytest.raises(HJPruneError, match=r"nowhere\.pth"):
        check_options(given | {"init_param": ["nowhere.pth"]}, model)
    assert not made.exists()


def test_trust_is_not_written_on(asr, checkpoint, tmp_path):
    config = plain_options(checkpoint, trust_checkpoint=True, normalize_input=True)
    args = argparse.Namespace(**config)
    model = task_class(asr).build_model(args)
    saved = args.frontend_conf["frontend_conf"]
    assert not set(saved) & set(READING_OPTIONS)
    # That it is normalised belongs to the model.
    assert saved["normalize_input"] and saved["architecture"]["normalize_input"]
    small = compact_config(
        plain_options(checkpoint, trust_checkpoint=True), model.frontend.core.config
    )
    assert "trust_checkpoint" not in yaml.safe_dump(small)


def test_a_models_configuration_is_not_trusted(checkpoint, model_dir, made: Path, tmp_path):
    """It may come from elsewhere, with a checkpoint that goes with it."""
    torch.save(torch.load(checkpoint) | {"extra": Malicious(made)}, checkpoint)
    config = plain_options(checkpoint, trust_checkpoint=True)
    (model_dir / "config.yaml").write_text(yaml.safe_dump(config))
    torch.save({}, model_dir / "model.pth")
    for read in (READERS["load"], READERS["decode"], READERS["export"], READERS["teacher"]):
        with pytest.raises(HJPruneError, match=RUNS):
            read(model_dir)
    assert not made.exists()


# Archives


def member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    """An entry of an archive."""
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    return info


@pytest.mark.parametrize(
    "entry",
    [
        member("../outside"),
        member("corpus/../../outside"),
        member("/absolute"),
        member("corpus/link", tarfile.SYMTYPE, "../../outside"),
        member("corpus/link", tarfile.SYMTYPE, "/etc/passwd"),
        member("corpus/link", tarfile.LNKTYPE, "../outside"),
        member("corpus/device", tarfile.CHRTYPE),
        member("corpus/pipe", tarfile.FIFOTYPE),
    ],
    ids=["parent", "inner", "absolute", "link", "absolute_link", "hard_link", "device", "pipe"],
)
def test_archives_write_nothing_elsewhere(entry: tarfile.TarInfo, tmp_path: Path) -> None:
    (tmp_path / "downloads").mkdir()
    (tmp_path / "outside").write_text("mine")
    if entry.name.startswith("/"):
        entry.name = f"{tmp_path}{entry.name}"
    archive = tmp_path / "downloads/corpus.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        good = member("corpus/good")
        good.size = 4
        tar.addfile(good, io.BytesIO(b"good"))
        tar.addfile(entry)
    refused = pytest.raises(HJPruneError, match=r"corpus\.tar\.gz cannot be unpacked")
    with refused, download.unpacked(archive):
        pass
    assert [path.name for path in (tmp_path / "downloads").iterdir()] == ["corpus.tar.gz"]
    assert (tmp_path / "outside").read_text() == "mine"
    assert not (tmp_path / "absolute").exists()


@pytest.mark.parametrize("mode", ["gz", "xz"])
def test_archives_that_would_fill_the_disk_are_refused(tmp_path: Path, mode: str) -> None:
    """101 MiB of zeros, of which nothing is left."""
    archive = tmp_path / f"corpus.tar.{mode}"
    with tarfile.open(archive, f"w:{mode}") as tar:
        for number in range(101):
            entry = member(f"corpus/{number}")
            entry.size = 1 << 20
            tar.addfile(entry, io.BytesIO(bytes(1 << 20)))
    assert archive.stat().st_size < 1 << 20
    with pytest.raises(HJPruneError, match="far more than its size"), download.unpacked(archive):
        pass
    assert list(tmp_path.iterdir()) == [archive]


def test_archives_of_too_many_files_are_refused(tmp_path: Path) -> None:
    archive = tmp_path / "corpus.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        for _ in range(download.SMALLEST_COUNT + 1):
            tar.addfile(member("corpus/same", tarfile.DIRTYPE))
    with pytest.raises(HJPruneError, match="far more than its size"), download.unpacked(archive):
        pass
    assert list(tmp_path.iterdir()) == [archive]


def test_what_honest_archives_hold_is_unpacked(tmp_path: Path) -> None:
    archive = tmp_path / "corpus.tar.gz"
    text = b"a line of a transcript\n" * 100_000
    with tarfile.open(archive, "w:gz") as tar:
        entry = member("corpus/text")
        entry.size = len(text)
        tar.addfile(entry, io.BytesIO(text))
        tar.addfile(member("corpus/link", tarfile.SYMTYPE, "text"))
    with download.unpacked(archive) as content:
        assert (content / "corpus/link").read_bytes() == text
    archive.write_bytes(archive.read_bytes()[:500])
    with pytest.raises(HJPruneError, match="cannot be unpacked"), download.unpacked(archive):
        pass
