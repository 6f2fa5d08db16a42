"""The configuration that a training of a recipe runs with: a file of the user's, completed.

What depends on the corpus, on options of the recipe and on earlier stages is written into a copy
beside the results, so that one file says all about a training.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from espnet_hjprune.config_file import parse_config, read_config
from espnet_hjprune.errors import HJPruneError
from espnet_hjprune.model.espnet_config import (
    SCHEDULER,
    plugin_names,
    plugin_option,
    plugin_options,
    source_options,
    upstream_options,
)
from espnet_hjprune.model.upstream_options import OWN_NAME, READING_OPTIONS
from espnet_hjprune.training.steps import TrainingSteps


@dataclass(frozen=True)
class Source:
    """Where an upstream comes from.

    Attributes:
        upstream: its name in s3prl.
        path_or_url: a checkpoint for names that need one.
        normalize_input: ``true`` or ``false``; empty for what the checkpoint says.
        trust_checkpoint: whether a checkpoint that holds more than data is executed.
        init_ctc: whether the CTC layer of the checkpoint is taken over.
    """

    upstream: str
    path_or_url: str = ""
    normalize_input: str = ""
    trust_checkpoint: bool = False
    init_ctc: bool = False


@dataclass(frozen=True)
class Ramp:
    """How the target of a pruning rises, in epochs.

    Attributes:
        ramp_epochs: from 0 to the first target.
        hold_epochs: at each of several targets.
        rise_epochs: from one of them to the next.
    """

    ramp_epochs: int
    hold_epochs: int
    rise_epochs: int

    def last_epoch(self, target: int) -> int:
        """The epoch at whose end the model of a target, counted from 0, is taken."""
        return self.ramp_epochs + self.hold_epochs + target * (self.rise_epochs + self.hold_epochs)


def check_ramp(ramp_epochs: int, max_epoch: int) -> None:
    """Refuse a target that would still rise at the end of a pruning.

    Raises:
        HJPruneError: it would.
    """
    if ramp_epochs >= max_epoch:
        raise HJPruneError(
            f"--ramp_epochs {ramp_epochs} does not end before the {max_epoch} epochs of stage 4; "
            "lower it or train longer"
        )


def with_source(config: Mapping[str, Any], name: str | Path, source: Source) -> dict[str, Any]:
    """The configuration with another upstream; ``name`` is what errors call it.

    Raises:
        HJPruneError: it does not use the plugin.
    """
    new = copy.deepcopy(dict(config))
    options = source_options(new, plugin_option(new, name), name)
    options["upstream"] = source.upstream
    if source.path_or_url:
        options["path_or_url"] = source.path_or_url
    if source.normalize_input:
        options["normalize_input"] = source.normalize_input == "true"
    for name in READING_OPTIONS:
        if getattr(source, name):
            options[name] = True
    return new


def with_distillation(
    config: Mapping[str, Any], name: str | Path, teacher: str | None = None
) -> dict[str, Any]:
    """The configuration with a distillation from a teacher, weighted as it says or by default.

    Args:
        config: of a training.
        name: what errors call it.
        teacher: file of the weights of a teacher, where the configuration names none.

    Raises:
        HJPruneError: it does not use the plugin.
    """
    new = copy.deepcopy(dict(config))
    options = plugin_options(new, name)
    distillation = options.get("distillation") or {}
    if not isinstance(distillation, dict):
        raise HJPruneError(f"{name} has {distillation!r} as distillation; write its options")
    options["distillation"] = distillation
    if teacher is not None and not distillation.get("teacher"):
        distillation["teacher"] = teacher
    return new


def with_dense_teacher(
    config: Mapping[str, Any], name: str | Path, directory: str
) -> dict[str, Any]:
    """The configuration of a training without labels, with the dense upstream that teaches.

    Args:
        config: of a training whose model is :data:`.UNLABELLED`.
        name: what errors call it.
        directory: model directory of the upstream; empty to keep the one that is configured.

    Raises:
        HJPruneError: a value is in the place of the model's options.
    """
    new = copy.deepcopy(dict(config))
    options = new.get("model_conf") or {}
    if not isinstance(options, dict):
        raise HJPruneError(f"{name} has {options!r} as model_conf; write its options")
    if directory:
        options |= {"teacher": OWN_NAME, "path_or_url": directory}
    new["model_conf"] = options
    return new


def with_steps(
    config: Mapping[str, Any], name: str | Path, steps: TrainingSteps, ramp: Ramp | None = None
) -> dict[str, Any]:
    """The configuration with its epochs, its optimiser steps, and those of the target's rise.

    Args:
        config: of a training.
        name: what errors call it.
        steps: of the training.
        ramp: for a pruning.

    Raises:
        HJPruneError: the target would still rise at the end, or a value is in the place of the
            scheduler's options.
    """
    new = copy.deepcopy(dict(config)) | {"max_epoch": steps.max_epoch}
    if new.get("scheduler") == SCHEDULER:
        scheduler = new.get("scheduler_conf") or {}
        if not isinstance(scheduler, dict):
            raise HJPruneError(f"{name} has {scheduler!r} as scheduler_conf; write its options")
        new["scheduler_conf"] = scheduler | {"total_steps": steps.total_steps}
    if ramp is None:
        return new
    check_ramp(ramp.ramp_epochs, steps.max_epoch)
    pruning = plugin_options(new, name)["pruning"]
    if pruning.get("scores"):  # The target holds from the start.
        return new
    pruning["ramp_steps"] = ramp.ramp_epochs * steps.steps_per_epoch
    if pruning.get("earlier_targets"):
        pruning["hold_steps"] = ramp.hold_epochs * steps.steps_per_epoch
        pruning["rise_steps"] = ramp.rise_epochs * steps.steps_per_epoch
    return new


def with_alignment(
    config: Mapping[str, Any], name: str | Path, previous: Path, device: str
) -> dict[str, Any]:
    """The configuration with a number where a pruning has ``round_to: auto``.

    The number that stands in the previous configuration is kept where all else but the length of
    the training is equal, so that what a training has begun goes on; otherwise it is measured.

    Args:
        config: of a training; it is complete but for this.
        name: what errors call it.
        previous: file that an earlier run may have written.
        device: ``cpu`` or ``cuda``.

    Raises:
        HJPruneError: the upstream cannot be read, the target cannot be met, or the device is not
            there.
    """
    new = copy.deepcopy(dict(config))
    options = upstream_options(new, name)
    if options.pruning is None or options.pruning.round_to != "auto":
        return new
    pruning = plugin_options(new, name)["pruning"]
    if previous.is_file():
        before = read_config(previous)
        if plugin_names(before):
            known = (plugin_options(before, previous).get("pruning") or {}).get("round_to")
            pruning["round_to"] = known
            same = _without_length(before) == _without_length(parse_config(yaml.safe_dump(new)))
            if isinstance(known, int) and same:
                return new
    # Imported here: most configurations need no torch, which takes a second to import.
    import torch

    from espnet_hjprune.model.alignment import aligned
    from espnet_hjprune.model.upstream import SpeechUpstream

    upstream = SpeechUpstream(replace(options, pruning=None, distillation=None))
    measured = aligned(options.pruning, upstream.config, torch.device(device))
    pruning["round_to"] = measured.alignment
    return new


def _without_length(config: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration without what :func:`with_steps` makes of the number of epochs."""
    new = {name: value for name, value in config.items() if name != "max_epoch"}
    if new.get("scheduler") == SCHEDULER:
        new["scheduler_conf"] = {**(new.get("scheduler_conf") or {}), "total_steps": None}
    return new
