"""Options of the recipes: the shell's table, their checks, and what is completed."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from espnet_hjprune.config_file import read_config
from espnet_hjprune.errors import HJPruneError, UsageError
from espnet_hjprune.pruning.config import DEFAULT_UNITS, SCORES, UNITS, PruningConfig
from espnet_hjprune.recipe import options as recipe_options
from espnet_hjprune.recipe.method import METHODS, UNPRUNED, Method, method_name
from espnet_hjprune.recipe.options import complete_options

ROOT = Path(__file__).resolve().parent.parent
SHELL = ROOT / "egs2/TEMPLATE/hjprune1"
RECIPE = ROOT / "egs2/librispeech_100/asr1"
GIVEN = {"train_set": "train", "valid_set": "dev", "test_sets": "one two"}


UNLABELLED = ROOT / "egs2/librispeech_100/ssl1"


def option_table(name: str) -> dict[str, str]:
    """Names and defaults, read by the shell itself from the table of a script."""
    text = (SHELL / name).read_text(encoding="utf-8")
    definition = text[text.index("define_options ") : text.index("\nparse_options ")]
    show = 'for name in "${option_names[@]}"; do printf "%s=%s\\n" "${name}" "${!name}"; done'
    script = f". utils/common.sh\n{definition}\n{show}\n"
    shell = ["bash", "-euo", "pipefail", "-c", script]
    result = subprocess.run(shell, cwd=ROOT, capture_output=True, text=True, check=True)
    return dict(line.split("=", 1) for line in result.stdout.removesuffix("\n").split("\n"))


TABLES = {name: option_table(name) for name in ("hjprune.sh", "unlabelled.sh")}
TABLE = TABLES["hjprune.sh"]


@pytest.fixture(autouse=True)
def in_the_recipe(monkeypatch: pytest.MonkeyPatch) -> None:
    """Configurations are found from the recipe's directory."""
    monkeypatch.chdir(RECIPE)


def complete(cores: int = 8, script: str = "hjprune.sh", **given: str) -> dict[str, str]:
    """The completed options of a script, where these are given."""
    assert set(given) <= set(TABLES[script])
    return complete_options(TABLES[script] | GIVEN | given, cores)


def refused(error: type[HJPruneError], **given: str) -> str:
    """The one sentence with which options are refused."""
    with pytest.raises(HJPruneError) as info:
        complete(**given)
    assert type(info.value) is error
    assert "\n" not in str(info.value)
    return str(info.value)


def write_config(path: Path, **changes: Any) -> str:
    """The recipe's configuration of the pruning with some options changed; "" drops one."""
    config = yaml.safe_load((RECIPE / "conf/tuning/prune.yaml").read_text(encoding="utf-8"))
    config = {name: value for name, value in (config | changes).items() if value != ""}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(config))
    return str(path)


# The table of the shell


def read_by_python() -> set[str]:
    """Options that are named where they are checked and completed."""
    source = Path(recipe_options.__file__).read_text(encoding="utf-8")
    read = set(re.findall(r"\b(?:new|options)\[[\"']([a-z_]+)[\"']\]", source))
    for names in ("WHOLE_NUMBERS", "COUNTS", "SECONDS", "FLAGS", "NEEDED", "CHOICES", "DEFAULTS"):
        read |= set(getattr(recipe_options, names))
    return read


def test_every_option_that_python_reads_is_in_the_table() -> None:
    made = set(complete()) - set(TABLE)
    assert made == {
        "make_upstream", "source_upstream", "original_train_set", "dataset_tag",
        "method_tag", "target_epochs", "audio_type",
        "train_max_epoch", "prune_max_epoch", "compact_max_epoch",
    }  # fmt: skip
    assert read_by_python() - made <= set(TABLE) | set(TABLES["unlabelled.sh"])
    numbers = {*recipe_options.WHOLE_NUMBERS, *recipe_options.COUNTS}
    assert set(recipe_options.MAY_BE_EMPTY) <= numbers | set(recipe_options.CHOICES)


@pytest.mark.parametrize("script", TABLES)
def test_every_option_of_the_table_is_used(script: str) -> None:
    shell = (SHELL / script).read_text(encoding="utf-8").partition("\nEND\n")[2]
    sourced = re.findall(r"^\. (scripts/\w+\.sh)$", (SHELL / script).read_text("utf-8"), re.M)
    shell += "".join((SHELL / name).read_text(encoding="utf-8") for name in sourced)
    table = TABLES[script]
    unused = {name for name in table if not re.search(rf"\$\{{[!#]?{name}\b", shell)}
    assert "((number = stage; number <= stop_stage; number++))" in shell
    # The others only choose further options.
    assert unused == {"stage", "stop_stage", "config_dir", "lang", "upstream"} & table.keys()
    assert {"config_dir", "lang", "upstream"} <= read_by_python()


def test_scripts_have_the_same_options_where_they_share_names() -> None:
    lines = {}
    for script in TABLES:
        text = (SHELL / script).read_text(encoding="utf-8").partition("<<'END'")[2]
        lines[script] = dict(re.findall(r"^  --(\w+) +(.*)$", text.partition("\nEND\n")[0], re.M))
    shared = set.intersection(*map(set, lines.values()))
    other = {name for name in shared if lines["hjprune.sh"][name] != lines["unlabelled.sh"][name]}
    # What they are for differs.
    expected = {"stop_stage", "test_sets", "compile", "prune_config", "prune_args"}
    assert other == expected
    assert all(TABLES["hjprune.sh"][name] == TABLES["unlabelled.sh"][name] for name in shared)


def test_every_default_passes() -> None:
    completed = complete()
    changed = {name for name in TABLE if completed[name] != (TABLE | GIVEN)[name]}
    assert changed == {
        "nj", "inference_nj", "upstream", "upstream_tag", "ramp_epochs", "config_dir",
        "train_config", "prune_config", "compact_config", "inference_config",
        "method", "target_sparsity", "units", "hold_epochs", "rise_epochs",
        "init_model", "inference_asr_model",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("criterion", "name"),
    [
        (None, "valid.loss.ave.pth"),
        ([["valid", "acc", "max"], ["valid", "loss", "min"]], "valid.acc.ave.pth"),
        ([["train", "loss", "min"]], "train.loss.ave.pth"),
    ],
)
def test_the_best_model_is_that_of_the_trainings_own_criterion(
    tmp_path: Path, criterion: list[list[str]] | None, name: str
) -> None:
    files = {}
    for part in ("train", "finetune"):
        config = yaml.safe_load(Path(f"conf/tuning/{part}.yaml").read_text(encoding="utf-8"))
        config.pop("best_model_criterion")
        if criterion is not None and part == "train":
            config["best_model_criterion"] = criterion
        files[part] = tmp_path / f"{part}.yaml"
        files[part].write_text(yaml.safe_dump(config))
    given = {"train_config": str(files["train"]), "compact_config": str(files["finetune"])}
    completed = complete(**given)
    assert completed["init_model"] == name
    assert completed["inference_asr_model"] == "valid.loss.ave.pth"
    assert complete(**given, init_model="5epoch.pth")["init_model"] == "5epoch.pth"


@pytest.mark.parametrize(
    "recipe",
    sorted(set(ROOT.glob("egs2/*/*/run.sh")) - {SHELL / "run.sh"}),
    ids=lambda p: p.parts[-3],
)
@pytest.mark.parametrize("mini", ["true", "false"])
def test_every_recipes_own_options_pass(
    recipe: Path, mini: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(recipe.parent)
    start = recipe.read_text(encoding="utf-8").partition("exec ./")[2]
    script, *words = shlex.split(start.replace("\\\n", " ").replace('"$@"', ""))
    given = dict(zip((word.removeprefix("--") for word in words[::2]), words[1::2], strict=True))
    complete(script=script, **given, mini=mini)


# What is refused

FINE_TUNED = {"upstream": "hf_wav2vec2_custom", "upstream_ckpt": "some/directory"}


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"stage": "0"}, "--stage and --stop_stage are 1 to 7 in this order, not '0' and '7'"),
        ({"stop_stage": "8"}, "--stage and --stop_stage are 1 to 7 in this order, not '1' and '8'"),
        ({"stage": "4", "stop_stage": "3"}, "--stage and --stop_stage are 1 to 7 in this order"),
        ({"stage": ""}, "--stage and --stop_stage are 1 to 7 in this order, not '' and '7'"),
        *(
            ({name: value}, f"--{name} is a whole number, not '{value}'")
            for name in ("ngpu", "mini_pretrain_epochs", "ramp_epochs", "seed")
            for value in ("-1", "1.5", "many", "²")
        ),
        ({"ngpu": ""}, "--ngpu is a whole number, not ''"),
        ({"mini_pretrain_epochs": " "}, "--mini_pretrain_epochs is a whole number, not ''"),
        *(
            ({name: value}, f"--{name} is a whole number from 1, not '{value}'")
            for name in ("num_nodes", "nj", "inference_nj", "nbpe", "hold_epochs", "rise_epochs")
            for value in ("0", "00", "-1", "1e1", "x")
        ),
        *(
            ({name: ""}, f"--{name} is a whole number from 1, not ''")
            for name in ("num_nodes", "nbpe", "hold_epochs", "rise_epochs")
        ),
        *(
            ({name: value}, f"--{name} is a number of seconds, not '{value}'")
            for name in ("min_wav_duration", "max_wav_duration")
            for value in ("", "-0.1", "inf", "nan", "1s")
        ),
        *(
            ({name: value}, f"--{name} is true or false, not '{value}'")
            for name in recipe_options.FLAGS
            for value in ("", "True", "1")
        ),
        *(
            ({name: value}, f"--{name} is not given")
            for name in ("train_set", "valid_set", "test_sets")
            for value in ("", " \n")
        ),
        ({"fs": "8k"}, "--fs is 8k, but the upstreams take 16k; audio of other rates is resampled"),
        ({"audio_format": "mp3"}, "--audio_format is flac, wav or flac.ark, not 'mp3'"),
        ({"token_type": "phn"}, "--token_type is char, bpe or word, not 'phn'"),
        ({"bpemode": "char"}, "--bpemode is unigram or bpe, not 'char'"),
        ({"metric": "cer"}, "--metric is wer or accuracy, not 'cer'"),
        ({"normalize_input": "no"}, "--normalize_input is true or false, not 'no'"),
        (
            {"init_ctc": "true"},
            "--init_ctc true takes over the CTC layer of a fine-tuned checkpoint",
        ),
        (
            {"init_ctc": "true", "upstream": "wav2vec2_local", "upstream_ckpt": "up.pt"},
            "name it, as with --upstream hf_wav2vec2_custom --upstream_ckpt DIR",
        ),
        (
            {"init_ctc": "true", "token_type": "bpe", **FINE_TUNED},
            "--init_ctc true has the checkpoint's tokens; give --token_type char",
        ),
        ({"decoder": "beam"}, "--decoder is batched or espnet, not 'beam'"),
        ({"task": "st"}, "--decoder batched is for --task asr and slu; give --decoder espnet"),
        ({"score_types": "wer per"}, "--score_types takes wer, cer, ter, not 'per'"),
        ({"score_types": ""}, "--score_types takes wer, cer, ter, not ''"),
        (
            {"method": "mac"},
            "--method is macs, size, sepsize, transformer, latency, dense, none, taylor or "
            "magnitude, not",
        ),
        (
            {"units": "head heads"},
            "--units takes conv, head, ffn, attention_layer, ffn_layer, hidden, not 'heads'",
        ),
        (
            {"targets": "0.2", "target_sparsity": "0.2"},
            "--targets and --target_sparsity are both given; give one",
        ),
        ({"target_sparsity": "1"}, "--target_sparsity is 1; it must lie between 0 and 1"),
        ({"target_sparsity": "0"}, "--target_sparsity is 0; it must lie between 0 and 1, or give"),
        ({"method": "size", "targets": "0 0.1"}, "--targets is 0; it must lie between 0 and 1"),
        ({"method": "dense", "units": "conv"}, "--method dense removes nothing"),
        ({"method": "dense", "target_sparsity": "0.1"}, "--method dense removes nothing"),
        ({"method": "none", "targets": "0.1 0.2"}, "--method none removes nothing"),
        ({"method": "taylor", "targets": "0.1 0.2"}, "--method taylor sets gates once"),
        ({"method": "none", "seed": "1", "distill": "true"}, "leave --distill, --seed out"),
        ({"target_sparsity": "much"}, "--target_sparsity is much; it must lie between 0 and 1"),
        ({"targets": "0.2 1.2"}, "--targets is 1.2; it must lie between 0 and 1"),
        ({"targets": "0.4 0.2"}, "--targets is '0.4 0.2', which does not rise"),
        ({"targets": "0.4 0.40"}, "--targets is '0.4 0.40', which does not rise"),
        (
            {"targets": "cnn=0.2 transformer=0.3"},
            "--targets are single numbers, not for --method sepsize",
        ),
        (
            {"method": "sepsize", "targets": "0.2 0.3"},
            "--targets are single numbers, not for --method sepsize",
        ),
        ({"method": "sepsize"}, "--method sepsize needs --target_sparsity with a share for each"),
        (
            {"method": "sepsize", "target_sparsity": "0.3"},
            "--target_sparsity needs a value for cnn and one for transformer when the criterion is "
            "sepsize, as in 'cnn=0.6 transformer=0.3', not '0.3'",
        ),
        (
            {"method": "sepsize", "target_sparsity": "cnn=0.3 cnn=0.4"},
            "--target_sparsity needs a value for cnn and one for transformer",
        ),
        (
            {"method": "sepsize", "target_sparsity": "cnn=0.3 transformer=3"},
            "--target_sparsity.transformer is 3; it must lie between 0 and 1",
        ),
        (
            {"method": "size", "target_sparsity": "cnn=0.3 transformer=0.3"},
            "--target_sparsity is one number when the criterion is size, not 'cnn=0.3",
        ),
        (
            {"mini": "true", "mini_pretrain_epochs": "2", "upstream": "wav2vec2_base_960"},
            "--mini_pretrain_epochs needs --mini true and a mini upstream such as wav2vec2_mini",
        ),
    ],
)
def test_wrong_options(given: dict[str, str], sentence: str) -> None:
    assert sentence in refused(UsageError, **given)
    assert UsageError.status == 2


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        *(
            ({f"{name}_config": "conf/none.yaml"}, f"conf/none.yaml (--{name}_config) does not")
            for name in ("train", "prune", "compact", "inference")
        ),
        ({"config_dir": "conf"}, "configuration conf/train.yaml (--train_config) does not exist"),
        (
            {"upstream": "wav2vec2_local", "upstream_ckpt": "none.pt"},
            "the upstream checkpoint none.pt does not exist; correct --upstream_ckpt",
        ),
        ({"upstream_ckpt": "conf"}, "the upstream checkpoint conf does not exist"),
        (
            {"mini": "true", "upstream_ckpt": "none.pt"},
            "the upstream checkpoint none.pt does not exist; correct --upstream_ckpt",
        ),
        ({"upstream": "hj_prune_local"}, "needs a model directory; give its path (--upstream_ckpt"),
        (
            {"upstream": "hj_prune_local", "upstream_ckpt": "conf"},
            "conf is no model directory, as it has no config.yaml",
        ),
        ({"method": "transformer", "units": "conv"}, "pruning.units is empty"),
        ({"units": "head ffn", "uniform": "true"}, "put both head and hidden into pruning.units"),
    ],
)
def test_missing_files(given: dict[str, str], sentence: str) -> None:
    assert sentence in refused(HJPruneError, **given)
    assert HJPruneError.status == 1


CONF: dict[str, Any] = {"fs": "16k", "pruning": {"target_sparsity": 0.4}}
SEPARATE = {"criterion": "sepsize", "target_sparsity": {"cnn": 0.6, "transformer": 0.3}}


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"frontend": None}, "FILE has neither frontend: hj_prune nor encoder: hj_prune"),
        ({"frontend_conf": {"fs": "16k"}}, "FILE has no options pruning in the upstream's"),
        ({"frontend_conf": CONF | {"pruning": 3}}, "FILE has no options pruning in the upstream's"),
        ({"frontend_conf": None}, "FILE has no options pruning in the upstream's"),
        ({"frontend_conf": ""}, "FILE has no options pruning in the upstream's"),
        ({"frontend_conf": [1]}, "FILE has [1] as frontend_conf; write options, as 'name: value'"),
        ({"frontend_conf": CONF | {"gates": 1}}, "FILE has frontend_conf with gates; it takes fs"),
        ({"frontend_conf": CONF | {"frontend_conf": "x"}}, "FILE has 'x' as frontend_conf"),
        (
            {"frontend_conf": CONF | {"frontend_conf": {"extra": 1}}},
            "FILE: hj_prune has no upstream option extra; it takes upstream",
        ),
        (
            {"frontend_conf": CONF | {"frontend_conf": {"tile_factor": "two"}}},
            "FILE: tile_factor is 'two', which is no whole number",
        ),
        (
            {"frontend_conf": CONF | {"pruning": {"gate_rate": 1}}},
            "FILE: pruning has no option gate_rate; it takes units",
        ),
        (
            {"frontend_conf": CONF | {"pruning": {"gate_lr": "fast"}}},
            "FILE: pruning.gate_lr is 'fast', which is no number",
        ),
        (
            {"frontend_conf": CONF | {"pruning": {"units": 3}}},
            "FILE: pruning.units is 3, not a list such as [head, ffn]",
        ),
        (
            {"frontend_conf": CONF | {"pruning": {"units": ["row"]}}},
            f"FILE: pruning.units has no row; it takes {', '.join(UNITS)}",
        ),
        (
            {"frontend_conf": CONF | {"pruning": {"criterion": "time"}}},
            "FILE: pruning.criterion has no time; it takes macs, size, sepsize",
        ),
        (
            {"frontend_conf": CONF | {"pruning": {"target_sparsity": 4}}},
            "FILE: pruning.target_sparsity is 4; it must lie between 0 and 1",
        ),
        ({"frontend_conf": CONF | {"dropout": "x"}}, "FILE: dropout is 'x', but it has options"),
        ({"frontend_conf": CONF | {"distillation": 3}}, "FILE: distillation is 3, but it has"),
    ],
)
def test_wrong_configurations_are_named(
    changes: dict[str, Any], sentence: str, tmp_path: Path
) -> None:
    file = write_config(tmp_path / "prune_bad.yaml", **changes)
    assert sentence.replace("FILE", file) in refused(HJPruneError, prune_config=file)


def test_a_ctc_layer_is_taken_over_where_nothing_is_between(tmp_path: Path) -> None:
    given = FINE_TUNED | {"init_ctc": "true", "normalize_input": "false"}
    assert complete(**given)["dataset_tag"] == "raw_en_char_init_ctc"
    assert complete(**FINE_TUNED)["dataset_tag"] == "raw_en_char"
    file = write_config(tmp_path / "between.yaml", encoder="conformer", encoder_conf={})
    assert refused(HJPruneError, train_config=file, **given) == (
        f"{file} has encoder: conformer between the upstream and the CTC layer, so that init_ctc "
        "cannot take over that of the checkpoint; set it to null, or init_ctc: false"
    )
    layer = write_config(tmp_path / "layer.yaml", frontend_conf=CONF | {"layer": 3})
    assert "reads the last hidden state as it is" in refused(
        HJPruneError, train_config=layer, **given
    )


def test_a_wrong_distillation_is_named_with_distill_too(tmp_path: Path) -> None:
    file = write_config(tmp_path / "bad.yaml", frontend_conf=CONF | {"distillation": 3})
    sentence = refused(HJPruneError, prune_config=file, distill="true")
    assert sentence == f"{file} has 3 as distillation; write its options"


@pytest.mark.parametrize("name", ["train", "prune", "compact", "inference"])
@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"a: [1\nb: {", "is no YAML"),
        (b"\xff\xfe\x00", "is no YAML"),
        (b"- 1\n", "has no 'option: value' lines"),
        (b"", "has no 'option: value' lines"),
    ],
)
def test_what_is_no_configuration_is_named(
    name: str, content: bytes, sentence: str, tmp_path: Path
) -> None:
    (tmp_path / "bad.yaml").write_bytes(content)
    message = refused(HJPruneError, **{f"{name}_config": str(tmp_path / "bad.yaml")})
    assert f"{tmp_path}/bad.yaml {sentence}" in message


def test_targets_of_another_form_than_the_configurations(tmp_path: Path) -> None:
    file = write_config(tmp_path / "prune_parts.yaml", frontend_conf=CONF | {"pruning": SEPARATE})
    sentence = refused(UsageError, prune_config=file, method="macs")
    assert sentence == "--method macs needs --target_sparsity with one number"
    message = f"{file}: pruning.target_sparsity needs a value for cnn and one for transformer"
    assert message in refused(HJPruneError, prune_config=file, target_sparsity="0.4")
    assert message in refused(HJPruneError, prune_config=file, targets="0.3 0.4")
    completed = complete(prune_config=file, method="size", target_sparsity="0.4")
    assert completed["method_tag"] == "size_parts_0.4"


def test_trainings_with_and_without_labels_are_told_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = str(UNLABELLED / "conf/tuning/prune.yaml")
    sentence = f"{other} (--prune_config) is for a training without labels; give a configuration"
    assert sentence in refused(HJPruneError, prune_config=other)
    monkeypatch.chdir(UNLABELLED)
    other = str(RECIPE / "conf/tuning/prune.yaml")
    with pytest.raises(HJPruneError, match="is for a training with labels"):
        complete(script="unlabelled.sh", prune_config=other)
    with pytest.raises(UsageError, match="--method none prunes nothing"):
        complete(script="unlabelled.sh", method="none")
    with pytest.raises(UsageError, match="give --method magnitude"):
        complete(script="unlabelled.sh", method="taylor")
    config = read_config("conf/tuning/prune.yaml")
    config["model_conf"]["teacher"] = "hubert_base"
    (tmp_path / "prune.yaml").write_text(yaml.safe_dump(config))
    with pytest.raises(HJPruneError, match="has a teacher in model_conf, but this recipe's is"):
        complete(script="unlabelled.sh", prune_config=str(tmp_path / "prune.yaml"))
    with pytest.raises(UsageError, match="--num_compared is a whole number from 1"):
        complete(script="unlabelled.sh", num_compared="0")


# What is completed


@pytest.mark.parametrize("size", ["mini", "small", "tuning"])
def test_what_is_completed_without_labels(size: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(UNLABELLED)
    config = read_config(f"conf/{size}/prune.yaml")
    given = {"targets": "0.2 0.4", "ramp_epochs": "3", "config_dir": f"conf/{size}"}
    completed = complete(script="unlabelled.sh", **given, audio_format="flac.ark")
    assert completed["dataset_tag"] == "raw"
    assert (
        completed["method_tag"] == f"{config['frontend_conf']['pruning']['criterion']}_to_0.2_0.4"
    )
    assert completed["target_epochs"] == "5 8"
    assert completed["prune_max_epoch"] == "8"
    assert completed["compact_model"] == "valid.loss.ave.pth"
    assert completed["audio_type"] == "kaldi_ark"
    assert "train_max_epoch" not in completed


@pytest.mark.parametrize(
    "place", sorted(str(p.parent) for p in ROOT.glob("egs2/*/asr1/conf/*/train.yaml"))
)
def test_configurations_of_the_recipes_are_complete(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(Path(place).parent.parent)
    (tmp_path / "upstream.pt").touch()
    options = {"upstream": "wav2vec2_local", "upstream_ckpt": str(tmp_path / "upstream.pt")}
    directory = f"conf/{Path(place).name}"
    for prune in sorted(Path(directory).glob("prune*.yaml")):
        completed = complete(config_dir=directory, prune_config=str(prune), **options)
        assert completed["train_config"] == f"{directory}/train.yaml"
        pruning = read_config(prune)["frontend_conf"]["pruning"]
        assert completed["target_sparsity"] == str(pruning["target_sparsity"])


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (
            {},
            {
                "upstream": "wav2vec2_base_960",
                "upstream_tag": "wav2vec2_base_960",
                "source_upstream": "wav2vec2_base_960",
                "upstream_ckpt": "",
                "make_upstream": "",
                "train_config": "conf/tuning/train.yaml",
                "prune_config": "conf/tuning/prune.yaml",
                "compact_config": "conf/tuning/finetune.yaml",
                "inference_config": "conf/decode_batched.yaml",
                "ramp_epochs": "5",
                "nj": "4",
                "inference_nj": "4",
                "method_tag": "macs_0.4",
                "dataset_tag": "raw_en_char",
                "train_set": "train",
                "original_train_set": "train",
                "dumpdir": "dump",
                "audio_type": "sound",
                "score_types": "wer cer",
                "target_epochs": "",
                "prune_args": "",
            },
        ),
        (
            {"mini": "true"},
            {
                "upstream": "wav2vec2_mini",
                "upstream_tag": "wav2vec2_mini",
                "source_upstream": "wav2vec2_local",
                "upstream_ckpt": "downloads/mini/wav2vec2_mini.pt",
                "make_upstream": "wav2vec2_mini",
                "train_config": "conf/mini/train.yaml",
                "prune_config": "conf/mini/prune.yaml",
                "compact_config": "conf/mini/finetune.yaml",
                "ramp_epochs": "4",
                "dataset_tag": "raw_en_char_mini",
                "dumpdir": "dump/mini",
                "method_tag": "macs_0.4",
            },
        ),
        (
            {"mini": "true", "upstream": "hubert_mini", "mini_pretrain_epochs": "8"},
            {
                "source_upstream": "hubert_local",
                "make_upstream": "hubert_mini",
                "upstream_ckpt": "downloads/mini/hubert_mini.pt",
            },
        ),
        (
            {"mini": "true", "upstream": "hubert_base", "config_dir": "conf/tuning"},
            {
                "source_upstream": "hubert_base",
                "make_upstream": "",
                "upstream_ckpt": "",
                "train_config": "conf/tuning/train.yaml",
            },
        ),
        # The real corpus has no epochs of the mini upstream, whatever a recipe gives.
        ({"mini_pretrain_epochs": "8"}, {"make_upstream": ""}),
        (
            {
                "upstream": "hf_wavlm_custom",
                "upstream_ckpt": "microsoft/wavlm",
                "upstream_tag": "w",
            },
            {"source_upstream": "hf_wavlm_custom", "upstream_tag": "w"},
        ),
        (
            {"upstream": "wav2vec2_local", "upstream_ckpt": "https://x/y.pt"},
            {"source_upstream": "wav2vec2_local", "upstream_ckpt": "https://x/y.pt"},
        ),
        (
            {"upstream": "wav2vec2_local", "upstream_ckpt": "run.sh"},
            {"upstream_ckpt": "run.sh", "upstream_tag": "wav2vec2_local"},
        ),
        (
            {"token_type": "bpe", "nbpe": "40", "lang": "de"},
            {"dataset_tag": "raw_de_bpe40", "score_types": "wer cer ter"},
        ),
        ({"token_type": "bpe", "score_types": "ter"}, {"score_types": "ter"}),
        (
            {"speed_perturb_factors": "0.9 1.1", "token_type": "bpe", "mini": "true"},
            {
                "train_set": "train_sp",
                "original_train_set": "train",
                "dataset_tag": "raw_en_bpe300_sp_mini",
            },
        ),
        ({"speed_perturb_factors": " "}, {"train_set": "train", "dataset_tag": "raw_en_char"}),
        ({"audio_format": "flac.ark"}, {"audio_type": "kaldi_ark"}),
        ({"audio_format": "wav"}, {"audio_type": "sound"}),
        ({"decoder": "espnet", "task": "st"}, {"inference_config": "conf/decode_espnet.yaml"}),
        (
            {"nj": "08", "inference_nj": "9", "ramp_epochs": "0", "seed": "007"},
            {
                "nj": "8",
                "inference_nj": "9",
                "ramp_epochs": "0",
                "seed": "7",
                "method_tag": "macs_0.4_seed7",
            },
        ),
        (
            {"train_config": "conf/mini/train.yaml", "fs": "16000"},
            {"train_config": "conf/mini/train.yaml", "prune_config": "conf/tuning/prune.yaml"},
        ),
    ],
)
def test_completed_values(given: dict[str, str], expected: dict[str, str]) -> None:
    completed = complete(**given)
    assert {name: completed[name] for name in expected} == expected


def test_jobs_are_the_cores_up_to_four() -> None:
    assert [complete(cores)["nj"] for cores in (1, 3, 4, 64)] == ["1", "3", "4", "4"]
    assert complete(2, nj="16")["inference_nj"] == "2"


@pytest.mark.parametrize(
    ("given", "tag"),
    [
        ({"target_sparsity": "0.60"}, "macs_0.6"),
        ({"method": "size"}, "size_0.4"),
        ({"method": "transformer", "target_sparsity": "0.3"}, "transformer_0.3"),
        ({"method": "transformer", "units": "head"}, "head_transformer_0.4"),
        ({"method": "dense"}, "dense"),
        ({"method": "none"}, "none"),
        ({"method": "taylor", "target_sparsity": "0.3"}, "taylor_0.3"),
        ({"method": "dense", "target_sparsity": "0", "seed": "2"}, "dense_seed2"),
        (
            {"method": "sepsize", "target_sparsity": "transformer=0.3 cnn=0.60"},
            "sepsize_cnn_0.6_transformer_0.3",
        ),
        ({"units": "head  ffn"}, "head_ffn_macs_0.4"),
        ({"distill": "true"}, "macs_distilled_0.4"),
        ({"uniform": "true"}, "macs_uniform_0.4"),
        ({"seed": "3"}, "macs_0.4_seed3"),
        ({"targets": "0.2  0.30"}, "macs_to_0.2_0.3"),
        (
            {"method": "size", "units": "ffn", "distill": "true", "targets": "0.2", "seed": "0"},
            "ffn_size_distilled_to_0.2_seed0",
        ),
        ({"mini": "true", "prune_config": "conf/mini/prune.yaml"}, "macs_0.4"),
    ],
)
def test_names_of_prunings(given: dict[str, str], tag: str) -> None:
    assert complete(**given)["method_tag"] == tag


@pytest.mark.parametrize(
    ("name", "pruning", "tag"),
    [
        ("prune_slow.yaml", {}, "macs_slow_0.4"),
        ("prune_macs.yaml", {}, "macs_0.4"),
        ("prune_size.yaml", {"criterion": "size"}, "size_0.4"),
        (
            "prune_transformer.yaml",
            {"criterion": "size", "units": list(DEFAULT_UNITS[1:])},
            "transformer",
        ),
        ("prune_macs_distilled.yaml", {}, "macs_macs_distilled_0.4"),
        ("prune.yaml", SEPARATE, "sepsize_cnn_0.6_transformer_0.3"),
        ("pruned.yaml", {"target_sparsity": "5e-1"}, "macs_pruned_0.5"),
        ("mine.v2.yml", {"target_sparsity": 0.0001}, "macs_mine.v2_0.0001"),
    ],
)
def test_names_of_prunings_with_own_configurations(
    name: str, pruning: dict[str, Any], tag: str, tmp_path: Path
) -> None:
    conf = CONF | {"pruning": CONF["pruning"] | pruning}
    file = write_config(tmp_path / "conf/x" / name, frontend_conf=conf)
    assert complete(prune_config=file)["method_tag"].startswith(tag)


@pytest.mark.parametrize("form", ["frontend", "encoder"])
def test_both_forms_of_the_plugin(form: str, tmp_path: Path) -> None:
    conf = {"dropout": {"hidden": 0.1}, "pruning": SEPARATE}
    changes: dict[str, Any] = {"frontend_conf": conf | {"fs": "16k", "frontend_conf": None}}
    if form == "encoder":
        changes = {
            "frontend": None,
            "frontend_conf": "",
            "encoder": "hj_prune",
            "encoder_conf": conf | {"upstream_conf": {"normalize": True}},
        }
    file = write_config(tmp_path / "prune_form.yaml", **changes)
    own = dict.fromkeys(("train_config", "prune_config", "compact_config"), file)
    completed = complete(**own, upstream="hubert_base", distill="true")
    assert completed["method_tag"] == "sepsize_form_distilled_cnn_0.6_transformer_0.3"
    changes[f"{form}_conf"]["dropout"] = {"hiden": 0.1}
    write_config(tmp_path / "prune_form.yaml", **changes)
    assert f"{file}: dropout has no option hiden" in refused(HJPruneError, **own)


def test_the_final_fine_tuning_needs_no_plugin(tmp_path: Path) -> None:
    for number, changes in enumerate(({"frontend": ""}, {"frontend_conf": ""})):
        file = write_config(tmp_path / f"finetune{number}.yaml", **changes)
        assert complete(compact_config=file)["compact_config"] == file
    conf = {"frontend_conf": {"dropout": {"hiden": 0.1}}}
    file = write_config(tmp_path / "bad.yaml", **conf)
    assert f"{file}: dropout has no option hiden" in refused(HJPruneError, compact_config=file)


def test_several_targets_shape_the_pruning() -> None:
    completed = complete(
        targets="0.2 0.30 0.4", ramp_epochs="3", hold_epochs="2", prune_args="--max_epoch 2 --x y"
    )
    assert completed["targets"] == "0.2 0.3 0.4"
    assert completed["target_epochs"] == "5 8 11"
    assert completed["prune_args"] == (
        "--x y --keep_nbest_models 11 --patience none --scheduler_conf pruning_schedule=constant"
    )
    assert completed["prune_max_epoch"] == "11"
    assert complete(targets="0.4")["target_epochs"] == "7"


def test_epochs_are_the_same_wherever_they_stand(tmp_path: Path) -> None:
    written = complete(prune_config=write_config(tmp_path / "a/prune.yaml", max_epoch=9))
    said = complete(prune_args="--x y --max_epoch 9 --max_epoch=8 z")
    assert (written["prune_max_epoch"], written["prune_args"]) == ("9", "")
    assert (said["prune_max_epoch"], said["prune_args"]) == ("8", "--x y z")
    assert [said[f"{part}_max_epoch"] for part in ("train", "compact")] == ["25", "10"]


# Methods

fractions = st.integers(1, 9999).map(lambda number: number / 10000)
rising = st.lists(fractions, min_size=1, max_size=6, unique=True).map(sorted)
PLAIN = {"pruning": {"units": ["head", "conv"], "earlier_targets": [0.1], "gate_lr": 0.5}}


def applied(method: Method, conf: Mapping[str, Any] = PLAIN) -> dict[str, Any]:
    """The options of the pruning that a method makes."""
    config = {"frontend": "hj_prune", "frontend_conf": conf}
    pruning: dict[str, Any] = method.apply(config, "prune.yaml")["frontend_conf"]["pruning"]
    return pruning


@given(rising, st.sampled_from(["", "macs", "size", "transformer"]))
def test_targets_survive_their_names(targets: list[float], name: str) -> None:
    method = Method.from_options(name, targets=" ".join(map(str, targets)))
    again = Method.from_options(name, targets=" ".join(map(str, method.targets)))
    assert again == method
    pruning = PruningConfig.from_dict(applied(method))
    assert [*pruning.earlier_targets, pruning.target_sparsity] == targets
    # What stands in directory names says the same.
    words = "_".join(map(str, method.targets))
    assert [float(word) for word in words.split("_")] == targets
    assert "e" not in words


@given(fractions, fractions, st.booleans())
def test_separate_targets_survive_their_text(cnn: float, other: float, turned: bool) -> None:
    words = [f"cnn={cnn}", f"transformer={other}"]
    method = Method.from_options("sepsize", " ".join(words[::-1] if turned else words))
    assert Method.from_options("sepsize", str(method.targets[0])) == method
    pruning = PruningConfig.from_dict(applied(method))
    assert pruning.target_sparsity == {"cnn": cnn, "transformer": other}
    assert method_name(pruning) == "sepsize"


@given(
    st.sampled_from(["", *METHODS]).filter(lambda name: name not in UNPRUNED),
    st.lists(st.sampled_from(UNITS[1:]), max_size=3, unique=True),
    fractions,
)
def test_a_method_changes_only_what_it_says(name: str, units: list[str], share: float) -> None:
    target = f"cnn={share} transformer={share}" if name == "sepsize" else str(share)
    table = "wav2vec2_base_cpu2" if name == "latency" else ""
    method = Method.from_options(name, target, units=" ".join(units), latency_table=table)
    before = {"pruning": dict(PLAIN["pruning"])}
    pruning = applied(method, before)
    assert before == PLAIN
    assert pruning.pop("gate_lr") == 0.5
    assert "earlier_targets" not in pruning
    expected = units or [
        unit for unit in ("head", "conv") if name != "transformer" or unit != "conv"
    ]
    assert pruning.pop("units") == expected
    assert pruning.pop("criterion", "") == METHODS.get(name, "")
    assert pruning.pop("scores", "") == (name if name in SCORES else "")
    assert set(pruning) == {"target_sparsity", *(["latency_table"] if table else [])}


def test_the_control_gates_nothing() -> None:
    pruning = applied(Method.from_options("dense"))
    assert pruning == {"units": [], "criterion": "macs", "target_sparsity": 0.0, "gate_lr": 0.5}


def test_no_method_changes_nothing() -> None:
    assert applied(Method.from_options()) == PLAIN["pruning"]
    assert applied(Method.from_options("transformer"), {"pruning": {"gate_lr": 1}}) == {
        "criterion": "size",
        "units": ["head", "ffn", "hidden"],
        "gate_lr": 1,
    }


@pytest.mark.parametrize("name", sorted(METHODS.keys() - {"none"}))
def test_methods_are_recognised(name: str) -> None:
    target = {"sepsize": "cnn=0.3 transformer=0.3", "dense": ""}.get(name, "0.3")
    conf = {"pruning": {"gate_lr": 0.1}}
    table = "wav2vec2_base_cpu2" if name == "latency" else ""
    method = Method.from_options(name, target, latency_table=table)
    pruning = PruningConfig.from_dict(applied(method, conf))
    assert method_name(pruning) == name


PRUNING = ("method", "target_sparsity", "units", "hold_epochs", "rise_epochs", "method_tag")


@pytest.mark.parametrize(
    "given",
    [
        {"method": "macs"},
        {"target_sparsity": "0.40"},
        {"method": "macs", "target_sparsity": "0.4", "hold_epochs": "7", "rise_epochs": "3"},
    ],
)
def test_what_is_said_twice_makes_no_other_pruning(given: dict[str, str]) -> None:
    configured, stated = complete(), complete(**given)
    assert [configured[name] for name in PRUNING] == [stated[name] for name in PRUNING]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"speed_perturb_factors": "0.9 fast"}, "takes numbers from 0.5 to 2.0, not 'fast'"),
        ({"speed_perturb_factors": "0.1"}, "takes numbers from 0.5 to 2.0, not '0.1'"),
        ({"train_args": "--max_epoch many"}, "--max_epoch: invalid int value"),
        ({"ramp_epochs": "30"}, "--ramp_epochs 30 does not end before the 30 epochs of stage 4"),
        ({"prune_args": "--max_epoch 3"}, "--ramp_epochs 5 does not end before the 3 epochs"),
        ({"compact_args": "--iterator_type chunk"}, "iterator_type 'chunk' has no fixed number"),
    ],
)
def test_lengths_are_checked_before_anything_runs(given: dict[str, str], message: str) -> None:
    with pytest.raises(HJPruneError, match=re.escape(message)):
        complete(**given)


# The command


def check(*options: str, python: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    """Run the command as the shell does."""
    given = TABLE | GIVEN | dict(option.split("=", 1) for option in options)
    command = [sys.executable, *python, "-m", "espnet_hjprune.bin.recipe.check_options"]
    return subprocess.run(
        [*command, *(f"{name}={value}" for name, value in given.items())],
        cwd=RECIPE,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )


def test_the_command_prints_lines_and_imports_no_torch() -> None:
    result = check("prune_args=--a b=c\n  --d", "expdir=a  b", python=("-X", "importtime"))
    assert result.returncode == 0
    printed = dict(line.split("=", 1) for line in result.stdout.removesuffix("\n").split("\n"))
    cores = len(os.sched_getaffinity(0))
    expected = complete(cores, prune_args="--a b=c   --d", expdir="a  b")
    assert printed == expected
    imported = {line.rpartition("|")[2].strip() for line in result.stderr.split("\n")}
    assert "espnet_hjprune.recipe.options" in imported
    assert not imported & {"torch", "numpy", "espnet2", "s3prl"}


@pytest.mark.parametrize(
    ("option", "status", "sentence"),
    [
        ("nj=0", 2, "error: --nj is a whole number from 1, not '0'\n"),
        ("prune_config=none.yaml", 1, "error: the configuration none.yaml (--prune_config) does"),
    ],
)
def test_the_command_ends_with_one_sentence(option: str, status: int, sentence: str) -> None:
    result = check(option)
    assert (result.returncode, result.stdout) == (status, "")
    assert result.stderr.startswith(sentence)
    assert result.stderr.count("\n") == 1
