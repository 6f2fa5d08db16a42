"""Configurations of ESPnet models that have the plugin, read and written without ESPnet.

Importing a task of ESPnet takes longer than decoding or compacting a model.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from espnet_hjprune.config_file import read_config
from espnet_hjprune.errors import HJPruneError
from espnet_hjprune.model.distillation_config import DistillationConfig
from espnet_hjprune.model.upstream_options import (
    OWN_OPTIONS,
    READING_OPTIONS,
    UpstreamOptions,
)
from espnet_hjprune.nn.config import EncoderConfig

# What the frontend and the encoder are called in a configuration.
NAME = "hj_prune"
# What the model is called that learns without labels.
UNLABELLED = "hj_prune_unlabelled"
# Our learning rate scheduler, which must know how long a training lasts.
SCHEDULER = "linear_warmup_decay"
# Options of a configuration that make up the model, beside the classes that the task lets choose.
MODEL_OPTIONS = (
    "model",
    "input_size",
    "encoder_conf",
    "ctc_conf",
    "joint_net_conf",
    "joint_network_conf",
)
# Options that shape the model too, but hold those of the loss as well; they are taken over where
# the new training does not set them.
SHARED_OPTIONS = (
    "model_conf",
    "asr_model_conf",
    "st_model_conf",
    "diar_model_conf",
    "enh_model_conf",
    "enh_criterions",
    "subtask_series",
    "losses",
    "num_spk",
    "spk_num",
    "diar_num_spk",
    "token_list",
    "src_token_list",
)
# Options with a `_conf` that do not make up the model: optimisation, and what happens to the data.
TRAINING_PARTS = re.compile(
    r"(optim|scheduler)\d*|exclude_weight_decay|adapter|(\w+_)?specaug|preprocessor"
)
# The model that a task builds where the configuration does not choose one, if not `espnet`.
DEFAULT_MODELS = {"hubert": "fairseq", "mt": "mt", "s2t_ctc": "espnet_ctc"}


def plugin_names(config: Mapping[str, Any]) -> list[str]:
    """Options of a configuration that name the plugin: ``frontend``, ``asr_encoder``, ..."""
    return [
        option
        for option, value in config.items()
        if value == NAME and option.endswith(("frontend", "encoder"))
    ]


def plugin_option(config: Mapping[str, Any], source: str | Path) -> str:
    """Option of a configuration that names the plugin.

    Returns:
        ``frontend`` or ``encoder``, or that of a model's part, such as ``asr_encoder``.

    Raises:
        HJPruneError: it does not use the plugin.
    """
    names = plugin_names(config)
    if not names:
        raise HJPruneError(f"{source} has neither frontend: hj_prune nor encoder: hj_prune")
    return names[0]


def plugin_options(config: dict[str, Any], source: str | Path) -> dict[str, Any]:
    """The plugin's options in a configuration, by reference.

    Raises:
        HJPruneError: it does not use the plugin, or has a value in the place of the options.
    """
    return _options_of(config, plugin_option(config, source) + "_conf", source)


def _options_of(config: dict[str, Any], name: str, source: str | Path) -> dict[str, Any]:
    """The options under a name, by reference; none where it is missing."""
    if config.get(name) is None:
        config[name] = {}
    options = config[name]
    if not isinstance(options, dict):
        raise HJPruneError(f"{source} has {options!r} as {name}; write options, as 'name: value'")
    return options


def _source_name(option: str) -> str:
    """What the plugin's options on the source of the upstream are called, within its own."""
    return "frontend_conf" if option.endswith("frontend") else "upstream_conf"


def source_options(
    config: dict[str, Any], option: str, source: str | Path = "the configuration"
) -> dict[str, Any]:
    """The options ``upstream``, ``path_or_url`` and ``architecture``, by reference.

    Args:
        config: the configuration.
        option: one of :func:`plugin_names`.
        source: what errors call the configuration.

    Raises:
        HJPruneError: a value is in the place of the options.
    """
    conf = _options_of(config, f"{option}_conf", source)
    return _options_of(conf, _source_name(option), source)


def drop_reading_options(config: dict[str, Any]) -> None:
    """Remove, in place, how a checkpoint is read from the configuration of a model.

    A configuration that is saved with weights must not tell others to trust anything, and one
    from elsewhere must not be followed in that.
    """
    for option in plugin_names(config):
        source = source_options(config, option)
        for name in READING_OPTIONS:
            source.pop(name, None)


def check_direct_ctc(config: Mapping[str, Any], source: str | Path) -> None:
    """Check that a model's CTC layer reads its upstream, with nothing between.

    Args:
        config: the configuration; it uses the plugin.
        source: what errors call it.

    Raises:
        HJPruneError: something is between.
    """
    own = plugin_option(config, source)
    parts = ("frontend", "normalize", "preencoder", "encoder", "postencoder")
    between = [f"{name}: {config[name]}" for name in parts if name != own and config.get(name)]
    if own not in ("frontend", "encoder") or between:
        raise HJPruneError(
            f"{source} has {', '.join(between) or own} between the upstream and the CTC layer, so "
            "that init_ctc cannot take over that of the checkpoint; set it to null, or init_ctc: "
            "false"
        )


def upstream_options(config: Mapping[str, Any], source: str | Path) -> UpstreamOptions:
    """Options of the upstream of a configuration.

    Raises:
        HJPruneError: it does not use the plugin, or an option is wrong.
    """
    option = plugin_option(config, source)
    conf = dict(_options_of(dict(config), f"{option}_conf", source))
    conf.pop("fs", None)
    given = conf.pop(_source_name(option), None)
    unknown = sorted(set(conf) - set(OWN_OPTIONS))
    if unknown:
        raise HJPruneError(
            f"{source} has {option}_conf with {', '.join(unknown)}; it takes "
            f"fs, {_source_name(option)}, {', '.join(OWN_OPTIONS)}"
        )
    try:
        return UpstreamOptions.from_dict(given, **conf)
    except HJPruneError as error:
        raise HJPruneError(f"{source}: {error}") from None


def read_architecture(path: str | Path) -> EncoderConfig:
    """Architecture that a model's ``config.yaml`` describes.

    Raises:
        HJPruneError: the file is missing, or does not hold an architecture.
    """
    config = read_config(path)
    architecture = source_options(config, plugin_option(config, path)).get("architecture")
    if not architecture:
        raise HJPruneError(f"{path} does not describe an architecture; was the model trained?")
    return EncoderConfig.from_dict(architecture)


def is_model_option(name: str, config: Mapping[str, Any]) -> bool:
    """Whether an option makes up the model, of whatever task.

    A part of the model is named by one option, and has its own options under that name with
    ``_conf``; so do the optimiser and what happens to the data in training.
    """
    part = name.removesuffix("_conf")
    if name in SHARED_OPTIONS or TRAINING_PARTS.fullmatch(part):
        return False
    return name in MODEL_OPTIONS or (part in config and f"{part}_conf" in config)


def compact_config(
    config: Mapping[str, Any], architecture: EncoderConfig, task: str = "asr"
) -> dict[str, Any]:
    """The gated model's configuration with the compact architecture and without gates."""
    new = copy.deepcopy(dict(config))
    option = plugin_option(new, "the training configuration")
    for name in ("pruning", "distillation", "compile"):
        new[f"{option}_conf"].pop(name, None)
    options = source_options(new, option)
    for name in ("upstream", "path_or_url", *READING_OPTIONS):
        options.pop(name, None)
    options["architecture"] = architecture.to_dict()
    if new.get("model") == NAME:
        new["model"] = DEFAULT_MODELS.get(task, "espnet")
    new["init_param"] = []
    return new


def unpruned_model(gated: Mapping[str, Any]) -> str | None:
    """Weights of the whole model that a pruning started from, by its configuration."""
    whole = [entry for entry in gated.get("init_param") or [] if ":" not in entry]
    return whole[0] if len(whole) == 1 else None


def finetune_config(
    compact: Mapping[str, Any], base: Mapping[str, Any], unpruned: str | None = None
) -> dict[str, Any]:
    """Training configuration ``base`` for the model of configuration ``compact``.

    Everything that makes up the model comes from ``compact``, what belongs to the model and to
    its loss where ``base`` does not set it. How the upstream is trained (dropout, masking,
    distillation, compilation), and all other options, come from ``base``. The teacher of a
    distillation that names none is ``unpruned``.

    Raises:
        HJPruneError: the options of the distillation are wrong.
    """
    new = copy.deepcopy(dict(base))
    for name in compact:
        if is_model_option(name, compact):
            new[name] = copy.deepcopy(compact[name])
    for name in SHARED_OPTIONS:
        if name in compact:
            new.setdefault(name, copy.deepcopy(compact[name]))
    conf = plugin_option(new, "the compact model") + "_conf"
    for name in ("dropout", "masking", "distillation", "compile"):
        new[conf].pop(name, None)
        if name in (base.get(conf) or {}):
            new[conf][name] = copy.deepcopy(base[conf][name])
    distillation = new[conf].get("distillation")
    if distillation is not None:
        DistillationConfig.from_dict(distillation)
        if not distillation.get("teacher"):
            distillation["teacher"] = unpruned
    return new
