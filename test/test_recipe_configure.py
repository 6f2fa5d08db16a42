"""The completed configuration of a training and its number of steps, compared with ESPnet's own."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from models import small_config

from espnet_hjprune import plugin
from espnet_hjprune.bin.recipe import configure
from espnet_hjprune.data import datadir
from espnet_hjprune.errors import HJPruneError, UsageError
from espnet_hjprune.model.alignment import CANDIDATES
from espnet_hjprune.recipe.training_config import Ramp
from espnet_hjprune.training import steps
from espnet_hjprune.training.steps import TrainingSteps

TRAINING: dict[str, Any] = {
    "frontend": "hj_prune",
    "frontend_conf": {"fs": "16k", "frontend_conf": {"upstream": "wav2vec2_base_960"}},
    "batch_type": "unsorted",
    "batch_size": 16,
    "max_epoch": 3,
}
SCHEDULER = {"scheduler": "linear_warmup_decay", "scheduler_conf": {"warmup_steps": 5}}
PRUNING = {"units": ["conv", "head", "ffn", "hidden"], "criterion": "macs", "target_sparsity": 0.4}


def pruning_config(form: str = "frontend", **changes: Any) -> dict[str, Any]:
    """The configuration of a pruning, with the plugin as frontend or as encoder."""
    conf = {"dropout": {"input": 0.1}, "pruning": dict(PRUNING)}
    parts: dict[str, Any] = {"frontend": "hj_prune", "frontend_conf": conf | {"fs": "16k"}}
    if form == "encoder":
        parts = {"frontend": None, "encoder": "hj_prune", "encoder_conf": conf}
    return TRAINING | {"frontend_conf": None} | parts | SCHEDULER | changes


@pytest.fixture
def shape_dir(tmp_path: Path) -> Path:
    """Shape files of 200 utterances of 1 to 3 s."""
    directory = tmp_path / "stats"
    numbers = {f"utt{number:03d}": number for number in range(200)}
    samples = {name: 16000 + 160 * number for name, number in numbers.items()}
    lengths = {name: f"{20 + 7 * number % 31},40" for name, number in numbers.items()}
    datadir.write_table(directory / "speech_shape", samples)
    datadir.write_table(directory / "text_shape.char", lengths)
    datadir.write_table(directory / "text", dict.fromkeys(numbers, "BIN BLUE"))
    return directory


def run(shape_dir: Path, config: Any, *options: str) -> tuple[dict[str, Any], TrainingSteps]:
    """The configuration and the steps that the command writes."""
    path = shape_dir / "given.yaml"
    path.write_text(yaml.safe_dump(config))
    output = shape_dir / "exp"
    required = ["--config", str(path), "--shape_dir", str(shape_dir), "--token_type", "char"]
    configure.main([*required, "--output_dir", str(output), *options])
    written = yaml.safe_load((output / "training.yaml").read_text("utf-8"))
    return written, TrainingSteps(**json.loads((output / "steps.json").read_text("utf-8")))


def parsed_by_espnet(shape_dir: Path, *arguments: str) -> dict[str, Any]:
    """What ESPnet's own parser reads from the written file."""
    from espnet2.tasks import asr

    plugin.register_with(asr)
    config = ["--config", str(shape_dir / "exp/training.yaml"), "--output_dir", "x"]
    return vars(asr.ASRTask.get_parser().parse_args([*config, *arguments]))


def espnet_batches(shape_dir: Path, config: dict[str, Any]) -> int:
    """The number of batches in an epoch of ESPnet's own iterator."""
    from espnet2.tasks.asr import ASRTask
    from espnet2.train.distributed_utils import DistributedOption

    parser = ASRTask.get_parser()
    scp = str(shape_dir / "text")
    options = {
        "train_data_path_and_name_and_type": [(scp, "speech", "text"), (scp, "text", "text")],
        "train_shape_file": [str(shape_dir / "speech_shape"), str(shape_dir / "text_shape.char")],
        "use_preprocessor": False,
        "token_list": [],
        "num_workers": 0,
    }
    parser.set_defaults(**options, **config)
    args = parser.parse_args(["--output_dir", "x"])
    factory = ASRTask.build_iter_factory(args, DistributedOption(), "train")
    return len(factory.build_iter(1))


# The number of steps


@pytest.mark.parametrize(
    "config",
    [
        {"batch_type": "unsorted", "batch_size": 16},
        {"batch_type": "unsorted", "batch_size": 16, "drop_last_iter": True},
        {"batch_type": "sorted", "batch_size": 7},
        {"batch_type": "folded", "batch_size": 16, "fold_length": [20000, 150]},
        {"batch_type": "length", "batch_bins": 200000},
        {"batch_type": "numel", "batch_bins": 300000},
        {"batch_type": "unsorted", "batch_size": 16, "num_iters_per_epoch": 5},
        {"batch_type": "unsorted", "batch_size": 16, "num_iters_per_epoch": 50},
    ],
)
def test_steps_are_espnets_batches(config: dict[str, Any], shape_dir: Path) -> None:
    batches = espnet_batches(shape_dir, config)
    _, counted = run(shape_dir, TRAINING | config)
    assert counted == TrainingSteps(batches, batches, max_epoch=3)
    assert counted.total_steps == 3 * batches
    options = ("--", "--accum_grad", "4", "--optim", "sgd", "--max_epoch", "2")
    _, accumulated = run(shape_dir, TRAINING | config, *options)
    assert accumulated == TrainingSteps(batches, batches // 4, max_epoch=2)


def test_defaults_are_espnets() -> None:
    from espnet2.tasks.asr import ASRTask

    parser = ASRTask.get_parser()
    assert {key: parser.get_default(key) for key in steps.DEFAULTS} == steps.DEFAULTS


def test_more_gpus_need_batches_of_their_number(shape_dir: Path) -> None:
    config = TRAINING | {"batch_type": "numel", "batch_bins": 100000}
    alone = run(shape_dir, config)[1]
    together = run(shape_dir, config, "--ngpu", "8")[1]
    assert together.steps_per_epoch < alone.steps_per_epoch
    assert run(shape_dir, config, "--ngpu", "2", "--num_nodes", "4")[1] == together


def test_training_options_are_picked_out() -> None:
    arguments = ["--init_param", "a.pth", "--fold_length", "8", "--fold_length", "9"]
    arguments += ["--model_conf", "ctc_weight=1.0", "--drop_last_iter", "true", "--batch_size", "2"]
    expected = {"fold_length": [8, 9], "drop_last_iter": True, "batch_size": 2}
    assert steps.training_options(arguments) == expected
    with pytest.raises(HJPruneError, match="training argument --max_epoch: invalid int value"):
        steps.training_options(["--max_epoch", "many"])


@given(
    words=st.lists(st.sampled_from(["--a", "b=c", "-1", "--max_epochs", "3", "--x=--max_epoch"])),
    places=st.lists(st.tuples(st.integers(0, 9), st.booleans()), max_size=3),
)
def test_the_number_of_epochs_is_taken_out(
    words: list[str], places: list[tuple[int, bool]]
) -> None:
    given: list[list[str]] = [[word] for word in words]
    for place, joined in places:
        given.insert(place, ["--max_epoch=7"] if joined else ["--max_epoch", "7"])
    arguments = [word for group in given for word in group]
    assert steps.without_max_epoch(arguments) == words


def test_options_after_the_dashes_count_before_the_file(shape_dir: Path) -> None:
    config = TRAINING | SCHEDULER | {"accum_grad": 5}
    written, counted = run(shape_dir, config, "--", "--max_epoch=7", "--accum_grad", "2")
    assert (counted.max_epoch, counted.steps_per_epoch) == (7, 12 // 2)
    assert written["scheduler_conf"]["total_steps"] == 7 * (12 // 2)
    parsed = parsed_by_espnet(shape_dir, "--max_epoch=7", "--accum_grad", "2")
    assert (parsed["max_epoch"], parsed["accum_grad"]) == (7, 2)
    assert parsed["scheduler_conf"] == {"warmup_steps": 5, "total_steps": 42}


def test_the_number_of_epochs_is_written(shape_dir: Path) -> None:
    config = TRAINING | SCHEDULER
    given = ("--max_epoch", "7", "--", "--max_epoch", "5", "--accum_grad", "2")
    written, counted = run(shape_dir, config, *given)
    assert (written["max_epoch"], counted.max_epoch) == (7, 7)
    assert written["scheduler_conf"]["total_steps"] == 7 * (12 // 2)
    del config["max_epoch"]
    assert run(shape_dir, config)[0]["max_epoch"] == steps.DEFAULTS["max_epoch"]


def test_numbers_are_written_as_numbers(shape_dir: Path) -> None:
    config = TRAINING | {"optim": "adamw", "optim_conf": {"lr": "3e-5"}, "grad_clip": "5e0"}
    config |= {"batch_type": "numel", "batch_bins": "3e5", "valid_batch_bins": "3.2e6"}
    written, counted = run(shape_dir, config)
    given = (shape_dir / "given.yaml").read_text()
    assert "lr: 3e-5\n" in given and "batch_bins: 3e5\n" in given
    assert written["optim_conf"] == {"lr": 3e-5} and written["grad_clip"] == 5.0
    assert (written["batch_bins"], written["valid_batch_bins"]) == (300000, 3200000)
    assert type(written["batch_bins"]) is type(written["valid_batch_bins"]) is int
    assert counted == run(shape_dir, config | {"batch_bins": 300000})[1]
    assert parsed_by_espnet(shape_dir)["optim_conf"] == {"lr": 3e-5}


def test_options_that_espnet_reads_in_its_own_way(shape_dir: Path) -> None:
    words = ("--fold_length", "150", "--num_iters_per_epoch", "none")
    folded = {"batch_type": "folded", "fold_length": [20000], "num_iters_per_epoch": 3}
    _, counted = run(shape_dir, TRAINING | folded, "--", *words)
    parsed = parsed_by_espnet(shape_dir, *words)
    expected = {"fold_length": [20000, 150], "num_iters_per_epoch": None}
    assert {name: parsed[name] for name in expected} == expected
    config = {"batch_size": 16, "batch_type": "folded", **expected}
    assert counted.batches_per_epoch == espnet_batches(shape_dir, config)


# What is written


@pytest.mark.parametrize("form", ["frontend", "encoder"])
def test_everything_lands_in_the_file_that_espnet_reads(form: str, shape_dir: Path) -> None:
    options = [
        "--upstream", "wav2vec2_local", "--upstream_ckpt", "w b.pt", "--seed", "007",
        "--init_param", "exp/train/valid.loss.ave.pth", "--teacher", "exp/train/best.pth",
        "--method", "transformer", "--targets", "0.2 0.30 0.4", "--units", "ffn conv",
        "--ramp_epochs", "3", "--hold_epochs", "2", "--rise_epochs", "1",
        "--allow_off_target", "true", "--", "--max_epoch", "11",
    ]  # fmt: skip
    config = pruning_config(form)
    if form == "encoder":
        config["encoder_conf"]["upstream_conf"] = {"normalize": True}
    else:
        config["frontend_conf"]["frontend_conf"] = {"normalize": True}
    written, counted = run(shape_dir, config, *options)
    assert counted == TrainingSteps(12, 12, max_epoch=11)
    conf = written[f"{form}_conf"]
    assert conf["pruning"] == {
        "units": ["ffn"],
        "criterion": "size",
        "target_sparsity": 0.4,
        "earlier_targets": [0.2, 0.3],
        "ramp_steps": 36,
        "hold_steps": 24,
        "rise_steps": 12,
        "allow_off_target": True,
    }
    assert conf["distillation"] == {"teacher": "exp/train/best.pth"}
    source = conf["upstream_conf" if form == "encoder" else "frontend_conf"]
    assert source == {"normalize": True, "upstream": "wav2vec2_local", "path_or_url": "w b.pt"}
    assert conf["dropout"] == {"input": 0.1}
    assert (written["seed"], written["init_param"]) == (7, ["exp/train/valid.loss.ave.pth"])
    assert written["scheduler_conf"] == {"warmup_steps": 5, "total_steps": 132}
    parsed = parsed_by_espnet(shape_dir)
    assert {name: parsed[name] for name in written} == written


def test_separate_targets_are_a_mapping(shape_dir: Path) -> None:
    target = ("--method", "sepsize", "--target_sparsity", "transformer=0.3 cnn=0.6")
    options = ("--upstream", "hubert_base", "--ramp_epochs", "1", *target)
    written, _ = run(shape_dir, pruning_config(), *options)
    pruning = written["frontend_conf"]["pruning"]
    assert pruning["criterion"] == "sepsize"
    assert pruning["target_sparsity"] == {"cnn": 0.6, "transformer": 0.3}
    assert pruning["ramp_steps"] == 12
    assert not {"hold_steps", "rise_steps", "earlier_targets"} & set(pruning)
    parsed = parsed_by_espnet(shape_dir)
    assert parsed["frontend_conf"] == written["frontend_conf"]


def test_what_is_not_given_stays(shape_dir: Path) -> None:
    config = TRAINING | SCHEDULER | {"seed": 5, "init_param": ["a.pth"], "text": "Größe"}
    written, _ = run(shape_dir, config, "--seed", "", "--init_param", "", "--teacher", "")
    assert written.pop("scheduler_conf") == {"warmup_steps": 5, "total_steps": 36}
    config.pop("scheduler_conf")
    assert written == config
    assert "Größe" in (shape_dir / "exp/training.yaml").read_text("utf-8")
    assert (shape_dir / "given.yaml").read_text() == yaml.safe_dump(config | SCHEDULER)


@pytest.mark.parametrize("scheduler", [None, "noamlr"])
def test_only_our_scheduler_gets_the_number_of_steps(scheduler: Any, shape_dir: Path) -> None:
    config = TRAINING | {"scheduler": scheduler, "scheduler_conf": {"warmup_steps": 9}}
    assert run(shape_dir, config)[0]["scheduler_conf"] == {"warmup_steps": 9}
    chosen = ("--", "--scheduler", "linear_warmup_decay")
    assert run(shape_dir, config, *chosen)[0]["scheduler_conf"]["total_steps"] == 36
    other = run(shape_dir, TRAINING | SCHEDULER, "--", "--scheduler", "noamlr")[0]
    assert other["scheduler_conf"] == {"warmup_steps": 5}


@pytest.mark.parametrize("configured", [{}, {"teacher": "own.pth"}])
def test_the_configuration_goes_before_the_usual_teacher(
    configured: dict[str, str], shape_dir: Path
) -> None:
    conf = TRAINING["frontend_conf"] | {"distillation": {"hidden": 2.0} | configured}
    written, _ = run(shape_dir, TRAINING | {"frontend_conf": conf}, "--teacher", "usual.pth")
    expected = {"hidden": 2.0, "teacher": configured.get("teacher", "usual.pth")}
    assert written["frontend_conf"]["distillation"] == expected


def test_a_measured_alignment_is_a_number_and_stays(shape_dir: Path) -> None:
    pruning = PRUNING | {"round_to": "auto", "seconds": 0.5}
    config = pruning_config()
    architecture = small_config().to_dict()
    config["frontend_conf"] |= {
        "frontend_conf": {"architecture": architecture},
        "pruning": pruning,
    }
    options = ("--ramp_epochs", "1", "--seed", "7")
    written, _ = run(shape_dir, config, *options)
    assert written["frontend_conf"]["pruning"]["round_to"] in CANDIDATES
    # A number that nothing measures, as if an earlier run had taken it.
    written["frontend_conf"]["pruning"]["round_to"] = 3
    path = shape_dir / "exp/training.yaml"
    path.write_text(yaml.safe_dump(written))
    assert run(shape_dir, config, *options)[0] == written
    # A longer training is the same one.
    longer, _ = run(shape_dir, config, *options, "--max_epoch", "9")
    assert longer["frontend_conf"] == written["frontend_conf"]
    assert longer["scheduler_conf"] == written["scheduler_conf"] | {"total_steps": 108}
    # Another training is measured for itself, and numbers that are given count.
    other = run(shape_dir, config, *options, "--target_sparsity", "0.3")[0]
    assert other["frontend_conf"]["pruning"]["round_to"] in CANDIDATES
    path.write_text(yaml.safe_dump(written))
    pruning["round_to"] = 8
    assert run(shape_dir, config, *options)[0]["frontend_conf"]["pruning"]["round_to"] == 8


@given(
    ramp=st.integers(0, 20), hold=st.integers(1, 9), rise=st.integers(1, 9), count=st.integers(1, 6)
)
def test_every_target_is_held_before_its_epoch_ends(
    ramp: int, hold: int, rise: int, count: int
) -> None:
    epochs = [Ramp(ramp, hold, rise).last_epoch(number) for number in range(count)]
    assert epochs[0] == ramp + hold
    assert [after - before for before, after in pairwise(epochs)] == ([rise + hold] * (count - 1))


# What is refused


@pytest.mark.parametrize("epochs", [3, 4])
def test_a_ramp_that_is_too_long_is_refused(epochs: int, shape_dir: Path) -> None:
    options = ("--upstream", "wav2vec2_base_960", "--ramp_epochs", str(epochs))
    message = f"--ramp_epochs {epochs} does not end before the 3 epochs of stage 4; lower it"
    with pytest.raises(HJPruneError, match=message):
        run(shape_dir, pruning_config(), *options)
    assert not (shape_dir / "exp").exists()
    run(shape_dir, pruning_config(), *options, "--", "--max_epoch", "5")


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (TRAINING | {"batch_type": "folded"}, "batch_type 'folded': The number of fold_lengths"),
        (TRAINING | {"accum_grad": 99}, "fewer than accum_grad 99"),
        (TRAINING | {"iterator_type": "chunk"}, "iterator_type 'chunk'"),
        (TRAINING | {"frontend_conf": {"layer": 3}}, r"given\.yaml: hj_prune needs the name"),
        (TRAINING | {"frontend_conf": {"gates": 3}}, r"given\.yaml has frontend_conf with gates"),
        (TRAINING | {"frontend": None}, "has neither frontend: hj_prune nor encoder: hj_prune"),
        (TRAINING | SCHEDULER | {"scheduler_conf": "x"}, "has 'x' as scheduler_conf"),
        ([1, 2], "has no 'option: value' lines"),
    ],
)
def test_wrong_configurations_are_refused(config: Any, message: str, shape_dir: Path) -> None:
    with pytest.raises(HJPruneError, match=message):
        run(shape_dir, config)
    assert not (shape_dir / "exp").exists()


def test_wrong_options_are_refused(shape_dir: Path) -> None:
    ramp = ("--upstream", "wav2vec2_base_960", "--ramp_epochs", "1")
    with pytest.raises(
        UsageError, match="--method is macs, size, sepsize, transformer, latency, dense"
    ):
        run(shape_dir, pruning_config(), *ramp, "--method", "mac")
    with pytest.raises(HJPruneError, match=r"given\.yaml has no options pruning"):
        run(shape_dir, TRAINING, *ramp)
    by_amount = TRAINING | {"batch_type": "numel", "batch_bins": 100000}
    with pytest.raises(HJPruneError, match="--batch_size does nothing with batch_type: numel"):
        run(shape_dir, by_amount, "--", "--batch_size", "8")
    assert not (shape_dir / "exp").exists()


def test_an_encoder_that_is_to_be_compiled(shape_dir: Path) -> None:
    config = run(shape_dir, TRAINING, "--compile", "true")[0]
    assert config["frontend_conf"]["compile"] is True
    assert "compile" not in run(shape_dir, TRAINING, "--compile", "false")[0]["frontend_conf"]


def test_missing_files_are_named(shape_dir: Path) -> None:
    (shape_dir / "text_shape.char").unlink()
    with pytest.raises(HJPruneError, match=r"text_shape\.char does not exist; run stage 2"):
        run(shape_dir, TRAINING)
    options = ["--shape_dir", str(shape_dir), "--token_type", "char", "--output_dir", "x"]
    with pytest.raises(HJPruneError, match=r"configuration .*no\.yaml does not exist"):
        configure.main(["--config", str(shape_dir / "no.yaml"), *options])
    for name, content in {"bad": b"a: [1\nb: {", "binary": b"\xff\xfe\x00"}.items():
        (shape_dir / f"{name}.yaml").write_bytes(content)
        with pytest.raises(HJPruneError, match=rf"{name}\.yaml is no YAML"):
            configure.main(["--config", str(shape_dir / f"{name}.yaml"), *options])
