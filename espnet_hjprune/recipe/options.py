"""Options of the recipes: checked, and completed where they are empty.

The shell has their names, defaults and descriptions (``egs2/TEMPLATE/hjprune1/hjprune.sh``, and
``unlabelled.sh``, which has none on tokens, fine-tuning and decoding); what they may be is said
here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from espnet_hjprune.config_file import read_config
from espnet_hjprune.constants import AUDIO_FORMATS, FASTEST, SLOWEST
from espnet_hjprune.data.tokens import TOKEN_TYPES
from espnet_hjprune.errors import HJPruneError, UsageError
from espnet_hjprune.model.espnet_config import (
    UNLABELLED,
    check_direct_ctc,
    plugin_names,
    plugin_options,
    upstream_options,
)
from espnet_hjprune.model.upstream_options import OWN_NAME
from espnet_hjprune.pruning.config import PruningConfig
from espnet_hjprune.recipe.method import METHOD_OPTIONS, UNPRUNED, Method, method_name
from espnet_hjprune.recipe.training_config import (
    Ramp,
    Source,
    check_ramp,
    with_distillation,
    with_source,
)
from espnet_hjprune.scoring.sclite import SCORE_TYPES
from espnet_hjprune.target import Target
from espnet_hjprune.training.steps import step_options, training_options, without_max_epoch

NUM_STAGES = 7
WHOLE_NUMBERS = ("ngpu", "mini_pretrain_epochs", "ramp_epochs", "seed")
COUNTS = (
    "num_nodes",
    "nj",
    "inference_nj",
    "nbpe",
    "hold_epochs",
    "rise_epochs",
    "num_compared",
)
# Those that are completed, or mean something else, where they are empty.
MAY_BE_EMPTY = ("nj", "inference_nj", "ramp_epochs", "seed", "normalize_input")
SECONDS = ("min_wav_duration", "max_wav_duration")
FLAGS = (
    "mini",
    "distill",
    "compile",
    "gpu_inference",
    "init_ctc",
    "trust_checkpoint",
    "allow_off_target",
    "uniform",
)
NEEDED = ("train_set", "valid_set", "test_sets")
CHOICES = {
    "audio_format": AUDIO_FORMATS,
    "token_type": TOKEN_TYPES,
    "bpemode": ("unigram", "bpe"),
    "metric": ("wer", "accuracy"),
    "decoder": ("batched", "espnet"),
    "normalize_input": ("true", "false"),
}
# The file of a training's configuration in a directory of them, and the model of a training that is
# used further.
TRAININGS = {"train": "train", "prune": "prune", "compact": "finetune"}
BEST_MODELS = {"init_model": "train", "inference_asr_model": "compact", "compact_model": "compact"}
# Tasks whose models the batched decoder reads.
BATCHED_TASKS = ("asr", "slu")
# What is meant by an empty option, with a real corpus and with a mini one.
DEFAULTS = {
    "config_dir": ("conf/tuning", "conf/mini"),
    "upstream": ("wav2vec2_base_960", "wav2vec2_mini"),
    "ramp_epochs": ("5", "4"),
}
MAX_JOBS = 4


def complete_options(options: Mapping[str, str], cores: int) -> dict[str, str]:
    """Check the options of a recipe and fill in what is empty.

    Args:
        options: all of them, by name: those of ``hjprune.sh``, or those of ``unlabelled.sh``.
        cores: of this machine.

    Returns:
        All of them, and what follows from them:

        - ``make_upstream``, a mini upstream that the recipe makes; ``source_upstream``, the s3prl
          name that is read;
        - ``original_train_set``, without copies of other speeds; ``dataset_tag`` and
          ``method_tag``, which stand in the names of experiments;
        - ``target_epochs``, after which the models at several ``targets`` are taken;
        - of the trainings that there are, ``train_max_epoch``, ``prune_max_epoch`` and
          ``compact_max_epoch``, their epochs, which ``train_args``, ``prune_args`` and
          ``compact_args`` do not have;
        - ``audio_type``, ESPnet's type of the audio.

    Raises:
        UsageError: an option is wrong.
        HJPruneError: a configuration or checkpoint is missing or wrong.
    """
    new = {name: value.strip() for name, value in options.items()}
    _check_values(new)
    for name in new.keys() & {*WHOLE_NUMBERS, *COUNTS}:
        # The shell takes a number that begins with 0 for an octal one.
        new[name] = new[name] and str(int(new[name]))
    for name, values in DEFAULTS.items():
        new[name] = new[name] or values[new["mini"] == "true"]
    for name in new.keys() & {"nj", "inference_nj"}:
        new[name] = new[name] or str(min(cores, MAX_JOBS))
    for part in _trainings(new):
        default = f"{new['config_dir']}/{TRAININGS[part]}.yaml"
        new[f"{part}_config"] = new[f"{part}_config"] or default
    if "decoder" in new:
        _check_decoder(new)
        new["inference_config"] = new["inference_config"] or f"conf/decode_{new['decoder']}.yaml"
    _choose_upstream(new)
    if "init_ctc" in new:
        _check_init_ctc(new)
    method = Method.from_options(*(new[option] for option in METHOD_OPTIONS))
    _check_method(method, new)
    configs = _read_configs(new)
    pruning = _check_configs(new, configs, method)
    _check_upstream(new)
    _spread_targets(new, method)
    _check_trainings(new, configs)
    for option in new.keys() & BEST_MODELS.keys():
        part = "train" if new["method"] == "none" else BEST_MODELS[option]
        new[option] = new[option] or best_model(configs[f"{part}_config"])
    new["method_tag"] = _method_tag(new, method, pruning)
    _state_method(new, method, pruning)
    _name_data(new)
    new["audio_type"] = "kaldi_ark" if new["audio_format"].endswith(".ark") else "sound"
    if new.get("token_type") == "bpe" and "ter" not in new["score_types"].split():
        new["score_types"] += " ter"
    return new


def _check_method(method: Method, options: Mapping[str, str]) -> None:
    """Refuse methods that a recipe cannot have, and options that do nothing with a method."""
    has_labels = "train_config" in options
    if method.name == "taylor" and not has_labels:
        raise UsageError(
            "--method taylor scores units by a loss, which is 0 where a model is its own teacher; "
            "give --method magnitude"
        )
    if method.name == "none":
        given = [name for name in ("distill", "uniform") if options.get(name) == "true"]
        given += ["seed"] if options["seed"] else []
        if not has_labels:
            raise UsageError("--method none prunes nothing, so that nothing is left to do")
        if given:
            names = ", ".join(f"--{name}" for name in given)
            raise UsageError(f"--method none prunes nothing; leave {names} out")


def _trainings(options: Mapping[str, str]) -> list[str]:
    """The trainings that a recipe has; without labels nothing is fine-tuned before the pruning."""
    return [part for part in TRAININGS if f"{part}_config" in options]


def _check_values(options: Mapping[str, str]) -> None:
    """Check what needs no other option; empty ones are completed later."""
    stages = [options[name] for name in ("stage", "stop_stage")]
    known = [str(number) for number in range(1, NUM_STAGES + 1)]
    if not set(stages) <= set(known) or stages[0] > stages[1]:
        raise UsageError(
            f"--stage and --stop_stage are 1 to {NUM_STAGES} in this order, not '{stages[0]}' and "
            f"'{stages[1]}'"
        )
    for name, value in options.items():
        if not value and name in MAY_BE_EMPTY:
            continue
        if name in WHOLE_NUMBERS and not value.isdecimal():
            raise UsageError(f"--{name} is a whole number, not '{value}'")
        if name in COUNTS and not (value.isdecimal() and int(value) > 0):
            raise UsageError(f"--{name} is a whole number from 1, not '{value}'")
        if name in SECONDS and not _is_duration(value):
            raise UsageError(f"--{name} is a number of seconds, not '{value}'")
        if name in FLAGS and value not in ("true", "false"):
            raise UsageError(f"--{name} is true or false, not '{value}'")
        if name in NEEDED and not value:
            raise UsageError(f"--{name} is not given")
        if name in CHOICES and value not in CHOICES[name]:
            *others, last = CHOICES[name]
            raise UsageError(f"--{name} is {', '.join(others)} or {last}, not '{value}'")
    if options["fs"] not in ("16k", "16000"):
        raise UsageError(
            f"--fs is {options['fs']}, but the upstreams take 16k; audio of other rates is "
            "resampled"
        )
    for factor in options.get("speed_perturb_factors", "").split():
        if not _is_duration(factor) or not SLOWEST <= float(factor) <= FASTEST:
            raise UsageError(
                f"--speed_perturb_factors takes numbers from {SLOWEST} to {FASTEST}, not '{factor}'"
            )
    for score_type in options.get("score_types", "wer").split() or [""]:
        if score_type not in SCORE_TYPES:
            raise UsageError(f"--score_types takes {', '.join(SCORE_TYPES)}, not '{score_type}'")


def _is_duration(value: str) -> bool:
    try:
        return 0 <= float(value) < math.inf
    except ValueError:
        return False


def _check_decoder(options: Mapping[str, str]) -> None:
    if options["decoder"] == "batched" and options["task"] not in BATCHED_TASKS:
        raise UsageError(
            f"--decoder batched is for --task {' and '.join(BATCHED_TASKS)}; give --decoder espnet"
        )


def _choose_upstream(options: dict[str, str]) -> None:
    """Set the tag of the upstream, and where it comes from.

    A mini upstream such as ``wav2vec2_mini`` (``make_upstream``) is made by the recipe, as a
    checkpoint that ``wav2vec2_local`` (``source_upstream``) reads.
    """
    upstream = options["upstream"]
    options["upstream_tag"] = options["upstream_tag"] or upstream
    made = not options["upstream_ckpt"] and upstream.endswith("_mini")
    if made:
        options["upstream_ckpt"] = f"downloads/mini/{upstream}.pt"
    elif options["mini"] == "true" and int(options["mini_pretrain_epochs"]):
        raise UsageError(
            "--mini_pretrain_epochs needs --mini true and a mini upstream such as wav2vec2_mini; "
            "give --mini_pretrain_epochs 0"
        )
    options["make_upstream"] = upstream if made else ""
    options["source_upstream"] = f"{upstream.rpartition('_')[0]}_local" if made else upstream


def _check_init_ctc(options: Mapping[str, str]) -> None:
    if options["init_ctc"] != "true":
        return
    if not options["upstream_ckpt"] or not options["upstream"].startswith("hf_"):
        raise UsageError(
            "--init_ctc true takes over the CTC layer of a fine-tuned checkpoint of Hugging Face; "
            "name it, as with --upstream hf_wav2vec2_custom --upstream_ckpt DIR"
        )
    if options["token_type"] != "char":
        raise UsageError("--init_ctc true has the checkpoint's tokens; give --token_type char")


def _check_upstream(options: Mapping[str, str]) -> None:
    file = options["upstream_ckpt"]
    if options["upstream"] == OWN_NAME:
        # Imported here: it takes torch, which the other checks do without.
        from espnet_hjprune.model.model_dir import model_directory

        model_directory(file)
        return
    if not file or options["make_upstream"]:
        return
    # No URL, and no directory or hub name of Hugging Face.
    is_file = "://" not in file and not options["upstream"].startswith("hf_")
    if is_file and not Path(file).is_file():
        raise HJPruneError(
            f"the upstream checkpoint {file} does not exist; correct --upstream_ckpt"
        )


def _name_data(options: dict[str, str]) -> None:
    """Names of the formatted data: as ESPnet has them, and apart for mini corpora."""
    options["original_train_set"] = options["train_set"]
    tag = "raw"
    if "token_type" in options:
        tag += f"_{options['lang']}_{options['token_type']}"
        if options["token_type"] == "bpe":
            tag += options["nbpe"]
        if options["init_ctc"] == "true":
            tag += "_init_ctc"
    if options.get("speed_perturb_factors"):
        options["train_set"] += "_sp"
        tag += "_sp"
    if options["mini"] == "true":
        options["dumpdir"] += "/mini"
        tag += "_mini"
    options["dataset_tag"] = tag


def _spread_targets(options: dict[str, str], method: Method) -> None:
    """Let the pruning last for several targets, and keep the model at each of them."""
    options["target_epochs"] = ""
    if not options["targets"]:
        # They mean nothing, and must not make another pruning of it.
        options["hold_epochs"] = options["rise_epochs"] = "0"
        return
    ramp = Ramp(*(int(options[name]) for name in ("ramp_epochs", "hold_epochs", "rise_epochs")))
    epochs = [ramp.last_epoch(number) for number in range(len(method.targets))]
    options["targets"] = " ".join(map(str, method.targets))
    options["target_epochs"] = " ".join(map(str, epochs))
    # The last target needs a learning rate too.
    options["prune_args"] += (
        f" --max_epoch {epochs[-1]} --keep_nbest_models {epochs[-1]} --patience none"
        " --scheduler_conf pruning_schedule=constant"
    )


def best_model(config: Mapping[str, Any]) -> str:
    """Name of the best model of a training, by the first criterion that its configuration has."""
    criteria = config.get("best_model_criterion") or [["valid", "loss", "min"]]
    return f"{criteria[0][0]}.{criteria[0][1]}.ave.pth"


def _check_trainings(options: dict[str, str], configs: Mapping[str, dict[str, Any]]) -> None:
    """Check what says how long the trainings last, and take their epochs out of their options."""
    for part in _trainings(options):
        words = options[f"{part}_args"].split()
        steps = step_options(configs[f"{part}_config"], training_options(words))
        options[f"{part}_args"] = " ".join(without_max_epoch(words))
        options[f"{part}_max_epoch"] = str(steps["max_epoch"])
        if part == "prune" and options["method"] != "none":
            check_ramp(int(options["ramp_epochs"]), int(steps["max_epoch"]))


def _state_method(options: dict[str, str], method: Method, pruning: PruningConfig) -> None:
    """State what the configuration says as options, so that both ways make one pruning."""
    options["method"] = method.name or method_name(pruning)
    options["units"] = " ".join(pruning.units)
    if not options["targets"] and not pruning.earlier_targets:
        options["target_sparsity"] = str(Target.parse(pruning.target_sparsity))


def _check_configs(
    options: Mapping[str, str], configs: Mapping[str, dict[str, Any]], method: Method
) -> PruningConfig:
    """Check the configurations of the trainings and return the options of the pruning."""
    source = Source(
        options["source_upstream"],
        options["upstream_ckpt"],
        options["normalize_input"],
        init_ctc=options.get("init_ctc") == "true",
    )
    pruning = PruningConfig()
    for name, config in configs.items():
        path = options[name]
        _check_labels(config, path, name, "train_config" in configs)
        # The model makes up for what its final fine-tuning does not say.
        if name == "compact_config" and not plugin_names(config):
            continue
        if name == "prune_config":
            config = method.apply(config, path)
            if options["uniform"] == "true":
                plugin_options(config, path)["pruning"]["uniform"] = True
        if name != "train_config" and options.get("distill") == "true":
            config = with_distillation(config, path)
        if name != "train_config":
            source = replace(source, init_ctc=False)
        elif source.init_ctc:
            check_direct_ctc(config, path)
        checked = upstream_options(with_source(config, path, source), path)
        pruning = checked.pruning or pruning
    return pruning


def _check_labels(config: Mapping[str, Any], path: str, name: str, has_labels: bool) -> None:
    """Check that a training is one with labels, or one without and with the recipe's teacher."""
    model = config.get("model")
    unsaid = name == "compact_config" and model is None
    if not unsaid and (model == UNLABELLED) == has_labels:
        labels = "without" if has_labels else "with"
        raise HJPruneError(
            f"{path} (--{name}) is for a training {labels} labels; give a configuration for this "
            "recipe"
        )
    options = config.get("model_conf")
    if not has_labels and isinstance(options, dict) and {"teacher", "path_or_url"} & set(options):
        raise HJPruneError(
            f"{path} has a teacher in model_conf, but this recipe's is the upstream of --upstream; "
            "remove it"
        )


def _read_configs(options: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """The configurations of the trainings by the names of their options; decoding's is read too."""
    configs = {}
    for name in [f"{part}_config" for part in _trainings(options)] + ["inference_config"]:
        if name not in options:
            continue
        if not Path(options[name]).is_file():
            raise HJPruneError(f"the configuration {options[name]} (--{name}) does not exist")
        configs[name] = read_config(options[name])
    configs.pop("inference_config", None)
    return configs


def _method_tag(options: Mapping[str, str], method: Method, pruning: PruningConfig) -> str:
    """Name of a pruning: units, method, configuration, distillation, target and seed."""
    name = method.name or method_name(pruning)
    words = [*method.units, name]
    if name == "latency" and method.latency_table:
        words.append(Path(method.latency_table).stem)
    config = Path(options["prune_config"]).stem.removeprefix("prune_")
    if config not in ("prune", name):
        words.append(config)
    if options.get("distill") == "true":
        words.append("distilled")
    if options["uniform"] == "true":
        words.append("uniform")
    if name not in UNPRUNED:  # They have no target.
        if options["targets"]:
            words += ["to", *map(str, method.targets)]
        else:
            words += str(Target.parse(pruning.target_sparsity)).replace("=", " ").split()
    if options["seed"]:
        words.append(f"seed{options['seed']}")
    return "_".join(words)
