"""Training in ESPnet's own way on a handful of short utterances."""

from __future__ import annotations

import argparse
import copy
import importlib
import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import soundfile
import torch
import yaml
from models import family_config

from espnet_hjprune.bin import compact as compact_command
from espnet_hjprune.espnet.losses import find_pruners
from espnet_hjprune.pruning.optimizer import attach
from espnet_hjprune.upstream.random_checkpoint import save_random_checkpoint

TOKENS = ["<blank>", "<unk>", "A", "B", "C", "<sos/eos>"]
# What ESPnet's configuration of a model says where the plugin is all of its encoder.
NO_OTHER_PARTS: dict[str, Any] = {
    "specaug": None,
    "normalize": None,
    "preencoder": None,
    "encoder": None,
    "encoder_conf": {},
    "postencoder": None,
    "decoder": None,
    "decoder_conf": {},
    "ctc_conf": {},
    "joint_net_conf": None,
}
LENGTHS = (9600, 8000, 8800, 8000)


def task_module(task: str) -> ModuleType:
    """Import ``espnet2.tasks.<task>``."""
    return importlib.import_module(f"espnet2.tasks.{task}")


def task_class(task: ModuleType) -> Any:
    """The task of an ``espnet2.tasks`` module."""
    return next(
        member
        for _, member in inspect.getmembers(task, inspect.isclass)
        if member.__module__ == task.__name__ and hasattr(member, "build_model")
    )


def build_model(task: ModuleType, config: Mapping[str, Any]) -> torch.nn.Module:
    """Build the model that an ESPnet configuration describes."""
    return task_class(task).build_model(argparse.Namespace(**copy.deepcopy(dict(config))))


def attach_gates(model: torch.nn.Module) -> torch.optim.Optimizer:
    """Make an optimiser that trains the model and its gates, as a task does before a training."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, weight_decay=0.1)
    for pruner in find_pruners(model):
        attach(pruner, optimizer)
    return optimizer


def training_model(task: ModuleType, config: Mapping[str, Any]) -> torch.nn.Module:
    """Build a model as for a training."""
    model = build_model(task, config)
    attach_gates(model)
    return model.train()


@dataclass
class Corpus:
    """A directory with four utterances, and the files of a training on them.

    Attributes:
        directory: where everything is.
        files: ESPnet's ``file,name,type`` of the training data; ``valid`` those of validation,
            where they differ.
    """

    directory: Path
    files: list[str]
    valid: list[str] = field(default_factory=list)

    def arguments(self) -> list[str]:
        """Options that name the data."""
        options = []
        for which, files in (("train", self.files), ("valid", self.valid or self.files)):
            for entry in files:
                name, *rest = entry.split(",")
                path = self.directory / name
                options += [f"--{which}_data_path_and_name_and_type", ",".join([str(path), *rest])]
            options += [f"--{which}_shape_file", str(self.directory / f"{which}.shape")]
        return options


def utterances(count: int = len(LENGTHS)) -> list[str]:
    """Names of the utterances."""
    return [f"utt{index}" for index in range(count)]


def write_table(path: Path, rows: dict[str, Any]) -> None:
    """Write ``key value`` lines."""
    path.write_text("".join(f"{key} {value}\n" for key, value in rows.items()))


def make_corpus(
    directory: Path, files: list[str], lengths: tuple[int, ...] = LENGTHS, style: str = "base"
) -> Corpus:
    """Write audio and an upstream ``upstream.pt``; labels are up to the caller."""
    directory.mkdir(parents=True, exist_ok=True)
    save_random_checkpoint(family_config("wav2vec2", style), "wav2vec2", directory / "upstream.pt")
    generator = np.random.default_rng(0)
    names = utterances(len(lengths))
    for name, length in zip(names, lengths, strict=True):
        samples = generator.normal(0, 0.1, length).clip(-1, 1)
        soundfile.write(directory / f"{name}.wav", samples, 16000)
    write_table(directory / "wav.scp", {name: directory / f"{name}.wav" for name in names})
    write_table(directory / "text", {name: "2 3 4" for name in names})
    for which in ("train", "valid"):
        write_table(directory / f"{which}.shape", dict(zip(names, lengths, strict=True)))
    return Corpus(directory, files)


def prune_options(corpus: Corpus, **changes: Any) -> dict[str, Any]:
    """Options of a short pruning with the frontend; the target ramp ends in the second epoch."""
    options: dict[str, Any] = {
        "frontend": "hj_prune",
        "frontend_conf": {
            "fs": "16k",
            "frontend_conf": {
                "upstream": "wav2vec2_local",
                "path_or_url": str(corpus.directory / "upstream.pt"),
            },
            "pruning": {"target_sparsity": 0.4, "ramp_steps": 3, "allow_off_target": True},
        },
        "optim": "adamw",
        "optim_conf": {"lr": 0.0005},
        "batch_type": "unsorted",
        "batch_size": 2,
        "max_epoch": 2,
        "num_workers": 0,
        "num_att_plot": 0,
        "use_matplotlib": False,
        "use_tensorboard": False,
        "best_model_criterion": [["valid", "loss", "min"]],
    }
    return options | changes


def train(task: str, corpus: Corpus, options: dict[str, Any], exp: Path, *more: str) -> Path:
    """Run a task's training and return its directory.

    Only options that the task has are given.
    """
    exp.mkdir(parents=True, exist_ok=True)
    config = exp / "train.yaml"
    config.write_text(yaml.safe_dump(options))
    command = ["--config", str(config), "--output_dir", str(exp), *corpus.arguments(), *more]
    task_class(task_module(task)).main(cmd=command)
    return exp


def last_epoch(exp: Path) -> dict[str, torch.Tensor]:
    """Weights after the last epoch."""
    return torch.load(exp / "latest.pth")


def pruning_state(exp: Path, name: str) -> torch.Tensor:
    """A tensor of the gates or the constraint after the last epoch, such as ``lambda1``."""
    (found,) = (v for k, v in last_epoch(exp).items() if k.endswith(f".{name}"))
    return found


def compact(task: str, exp: Path, output: Path, finetune: dict[str, Any] | None = None) -> None:
    """Run the compaction on the last epoch."""
    arguments = ["--task", task, "--train_config", exp / "config.yaml"]
    arguments += ["--model_file", (exp / "latest.pth").resolve(), "--output_dir", output]
    arguments += ["--allow_off_target", "true"]
    if finetune is not None:
        base = exp / "finetune_base.yaml"
        base.write_text(yaml.safe_dump(finetune))
        arguments += ["--finetune_config", base]
    compact_command.main([str(argument) for argument in arguments])
