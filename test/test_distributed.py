"""Training in two processes through ESPnet's launcher, and ESPnet's other trainers."""

from __future__ import annotations

import os
import subprocess
import sys
from argparse import Namespace
from pathlib import Path

import pytest
import torch
import yaml
from espnet_runs import TOKENS, last_epoch, make_corpus, prune_options, train
from test_espnet_plugin import options as plugin_options

from espnet_hjprune.bin import compact as compact_command
from espnet_hjprune.errors import HJPruneError

PYTHON = [sys.executable, "-m", "espnet_hjprune.bin.run"]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """Utterances of equal lengths: padding would differ between the parts of a batch."""
    directory = tmp_path_factory.mktemp("distributed")
    return make_corpus(directory, ["wav.scp,speech,sound", "text,text,text_int"], (8000,) * 8)


def options(corpus, **changes):
    """CTC training without randomness beside the gates."""
    config = prune_options(
        corpus,
        token_list=TOKENS,
        use_preprocessor=False,
        encoder=None,
        model="hj_prune",
        model_conf={"ctc_weight": 1.0},
        ctc_conf={"dropout_rate": 0.0},
        batch_size=4,
    )
    config["frontend_conf"]["dropout"] = dict.fromkeys(
        ("input", "hidden", "attention", "activation"), 0.0
    )
    return config | changes


def launch(corpus, config, exp: Path, tmp_path: Path) -> None:
    """Two processes on this machine, which ESPnet's launcher starts by ssh."""
    ssh = tmp_path / "bin" / "ssh"
    ssh.parent.mkdir()
    ssh.write_text('#!/bin/sh\nshift\nexec sh -c "$*"\n')
    ssh.chmod(0o755)
    exp.mkdir()
    (exp / "train.yaml").write_text(yaml.safe_dump(config))
    command = [
        *PYTHON, "-m", "espnet2.bin.launch", "--host", "localhost,localhost", "--ngpu", "0",
        "--envfile", "/dev/null", "--log", str(exp / "train.log"),
        "--init_file_prefix", str(exp / ".dist_init_"),
        "--", *PYTHON, "-m", "espnet2.bin.asr_train", "--config", str(exp / "train.yaml"),
        "--output_dir", str(exp), *corpus.arguments(),
    ]  # fmt: skip
    environment = os.environ | {
        "PATH": f"{ssh.parent}:{os.environ['PATH']}",
        "OMP_NUM_THREADS": "1",
    }
    result = subprocess.run(command, capture_output=True, text=True, env=environment)
    log = (exp / "train.log").read_text()
    assert result.returncode == 0, (result.stderr + log)[-4000:]
    assert yaml.safe_load((exp / "config.yaml").read_text())["dist_world_size"] == 2


def as_encoder(config):
    """The plugin as encoder; it reads an inner layer, and the rest goes without gradients."""
    conf = config["frontend_conf"]
    return config | {
        "frontend": None,
        "frontend_conf": {},
        "input_size": 1,
        "encoder": "hj_prune",
        "encoder_conf": {
            "upstream_conf": conf["frontend_conf"],
            "pruning": conf["pruning"],
            "dropout": conf["dropout"],
            "layer": 2,
        },
    }


@pytest.mark.parametrize("form", ["frontend", "encoder"])
def test_two_processes_train_the_gates_of_one(corpus, tmp_path, form):
    config = options(corpus)
    if form == "encoder":
        config = as_encoder(config) | {"accum_grad": 2, "unused_parameters": True, "batch_size": 2}
    launch(corpus, config, tmp_path / "two", tmp_path)
    train("asr", corpus, config, tmp_path / "one")
    one, two = last_epoch(tmp_path / "one"), last_epoch(tmp_path / "two")
    assert one.keys() == two.keys()
    gates = {name: tensor for name, tensor in one.items() if ".pruner." in name}
    assert len(gates) == 5
    for name, expected in gates.items():
        assert torch.allclose(two[name], expected, rtol=0, atol=1e-4), name
    log_alpha = one[f"{form}.core.pruner.gates.log_alpha"]
    assert log_alpha.std() > 0.02, "only the noise of the beginning"
    assert int(one[f"{form}.core.pruner.constraint.num_steps"]) == 4
    weight = f"{form}.core.encoder.feature_projection.linear.weight"
    assert torch.allclose(two[weight], one[weight], rtol=0, atol=1e-4)


def test_lightning_trains_the_gates(corpus, tmp_path):
    """ESPnet's Lightning trainer, in two processes; its checkpoints can be compacted."""
    config = options(
        corpus,
        scheduler="linear_warmup_decay",
        scheduler_conf={"warmup_steps": 2, "total_steps": 10},
        use_tensorboard=True,
        lightning_conf={
            "accelerator": "cpu",
            "devices": 2,
            "max_epochs": 2,
            "log_every_n_steps": 1,
            "best_model_criterion": [["valid/loss", "min", 2]],
        },
    )
    exp = tmp_path / "exp"
    exp.mkdir()
    (exp / "train.yaml").write_text(yaml.safe_dump(config))
    result = subprocess.run(
        [
            *PYTHON, "-m", "espnet2.bin.lightning_train", "--task", "asr",
            "--config", str(exp / "train.yaml"), "--output_dir", str(exp), *corpus.arguments(),
        ],
        capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"}, cwd=tmp_path,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr[-4000:]
    assert "Starting with 2 processes" in result.stdout + result.stderr
    averaged = torch.load(exp / "valid.loss.ave_2best.pth")
    assert averaged["frontend.core.pruner.constraint.lambda1"] < 0
    arguments = ["--train_config", exp / "config.yaml", "--model_file", exp / "last.ckpt"]
    arguments += ["--allow_off_target", "true"]
    compact_command.main([str(a) for a in [*arguments, "--output_dir", tmp_path / "compact"]])
    assert (tmp_path / "compact" / "model.pth").is_file()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"scheduler": None}, "set scheduler: linear_warmup_decay"),
        ({"init_param": ["model.pth"]}, "does nothing with init_param"),
        ({"freeze_param": ["frontend.core.encoder"]}, "does nothing with freeze_param"),
        ({"lightning_conf": {"strategy": "fsdp"}}, "set strategy: ddp"),
        ({"lightning_conf": {"precision": "bf16-true"}}, "set precision: bf16-mixed"),
        ({"grad_noise": True}, "set grad_noise: false"),
    ],
)
def test_what_lightning_does_not_do_is_refused(corpus, tmp_path, changes, message):
    from espnet2.train.lightning_espnet_model import LitESPnetModel

    config = plugin_options(str(corpus.directory / "upstream.pt"))
    config |= {"task": "asr", "output_dir": str(tmp_path), "lightning_conf": {}}
    config |= {"scheduler": "linear_warmup_decay", "scheduler_conf": {}} | changes
    with pytest.raises(HJPruneError, match=message):
        LitESPnetModel(Namespace(**config)).configure_optimizers()
