"""Options of an ESPnet training that do not go together with the plugin.

ESPnet would accept them all, and train something else than what was asked for.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from inspect import signature
from pathlib import Path
from typing import Any

import torch
from espnet2.train.abs_espnet_model import AbsESPnetModel

from espnet_hjprune.checkpoint_file import read_checkpoint
from espnet_hjprune.config_file import with_numbers
from espnet_hjprune.errors import HJPruneError
from espnet_hjprune.espnet.encoder import HJPruneEncoder
from espnet_hjprune.espnet.losses import find_pruners, find_upstreams
from espnet_hjprune.espnet.scheduler import LinearWarmupDecay
from espnet_hjprune.model.espnet_config import SCHEDULER
from espnet_hjprune.model.model_dir import SAVE_WEIGHTS
from espnet_hjprune.model.stock_weights import STOCK
from espnet_hjprune.pruning.pruner import Pruner
from espnet_hjprune.pruning.rates import summed_gate_rate
from espnet_hjprune.pruning.travel import check_travel

# Options of optimisers and learning rate schedulers; some tasks have two of them.
OPTIMISATION = re.compile(r"(optim|scheduler)\d*_conf")


def check_options(options: Mapping[str, Any], model: AbsESPnetModel) -> None:
    """Check the options of a training against the model that was built from them.

    Args:
        options: options of the training.
        model: the model; one without ``hj_prune`` passes.

    Raises:
        HJPruneError: an option that cannot be used, with what to set instead.
    """
    if not find_upstreams(model):
        if options.get("model") == "hj_prune":
            raise HJPruneError(
                "model: hj_prune needs a frontend or encoder hj_prune with pruning options"
            )
        return
    if find_pruners(model):
        _check_gated(options, model)
    elif options.get("model") == "hj_prune":
        raise HJPruneError(
            "model: hj_prune needs pruning options of its hj_prune frontend or encoder; add them, "
            "or remove model: hj_prune"
        )
    _check_encoder_form(options, model)
    _check_weights(options, model)
    _check_frozen(options.get("freeze_param") or [], model)
    _check_init_param(options)
    if options.get("use_adapter"):
        raise HJPruneError(
            "adapters are not trained inside of hj_prune; set use_adapter: false, and compact "
            "first if the compact model shall be adapted"
        )


def convert_numbers(options: dict[str, Any]) -> None:
    """Make numbers of those in the options of optimisers and schedulers that YAML has as texts.

    ESPnet reads YAML 1.1, in which ``3e-4`` is one, and torch would compare it with 0.

    Args:
        options: options of the training, which are changed.
    """
    for name in options:
        if OPTIMISATION.fullmatch(name):
            options[name] = with_numbers(options[name])


def check_gate_travel(options: Mapping[str, Any], pruner: Pruner) -> None:
    """Check that the gates can reach their target in a training, where its length is known.

    That is where the scheduler is ``linear_warmup_decay``, which the recipes use.

    Raises:
        HJPruneError: they cannot.
    """
    if options.get("scheduler") != SCHEDULER:
        return
    conf = {name: p.default for name, p in signature(LinearWarmupDecay).parameters.items()}
    conf |= options.get("scheduler_conf") or {}
    rate, steps = pruner.options.gate_lr, int(conf["total_steps"])
    distance = summed_gate_rate(rate, conf["warmup_steps"], steps, conf["pruning_schedule"])
    betas = (options.get("optim_conf") or {}).get("betas", (0.9, 0.999))
    check_travel(pruner, distance, tuple(betas))


def _check_gated(options: Mapping[str, Any], model: torch.nn.Module) -> None:
    """Options that would train gates or multipliers wrongly."""
    if not all(p.requires_grad for pruner in find_pruners(model) for p in pruner.parameters()):
        raise HJPruneError(
            "freeze_param has frozen the gates too, which then never close; to freeze the "
            "upstream's weights only, name its part core.encoder, as in frontend.core.encoder"
        )
    if options.get("grad_noise"):
        raise HJPruneError(
            "the noise on the gradients would drive the gates; set grad_noise: false while pruning"
        )
    if options.get("train_dtype", "float32") != "float32":
        raise HJPruneError(
            f"gates are trained in float32; set train_dtype: float32 instead of "
            f"{options['train_dtype']}, and use_amp: true to save memory"
        )
    if uses_threads(options):
        raise HJPruneError(
            "threads for several GPUs would draw the same gates in every step; set "
            "multiprocessing_distributed: true"
        )
    for name in ("sharded_ddp", "use_deepspeed"):
        if options.get(name):
            raise HJPruneError(
                f"{name} knows no optimiser groups, which gates and multipliers need; set "
                f"{name}: false while pruning"
            )


def uses_threads(options: Mapping[str, Any]) -> bool:
    """Whether a training uses several GPUs by threads of one process."""
    return (options.get("ngpu") or 0) > 1 and not options.get("distributed", True)


def check_teacher_threads(options: Mapping[str, Any]) -> None:
    """Refuse threads for several GPUs, which would share one teacher.

    Raises:
        HJPruneError: the training has them.
    """
    if uses_threads(options):
        raise HJPruneError(
            "threads for several GPUs have no teacher each; set multiprocessing_distributed: true"
        )


def _check_encoder_form(options: Mapping[str, Any], model: torch.nn.Module) -> None:
    if options.get("specaug") and any(isinstance(m, HJPruneEncoder) for m in model.modules()):
        raise HJPruneError(
            "encoder: hj_prune reads samples, in which specaug finds no spectrum to mask; set "
            "specaug: null, and mask with the option masking of encoder_conf"
        )


def _check_frozen(frozen: list[str], model: torch.nn.Module) -> None:
    """ESPnet does not say when a part that it shall freeze is not there."""
    names = [name for name, _ in model.named_parameters()]
    for part in frozen:
        if not any(name == part or name.startswith(part + ".") for name in names):
            upstreams = " or ".join(f"{name}.encoder" for name in find_upstreams(model))
            raise HJPruneError(
                f"freeze_param {part} freezes nothing, as no parameter is called so; the weights "
                f"of the hj_prune upstream are {upstreams}"
            )


def _check_weights(options: Mapping[str, Any], model: torch.nn.Module) -> None:
    """An upstream that was built from its architecture must get weights from somewhere."""
    nothing_trains = options.get("collect_stats") or options.get("dry_run")
    directory = Path(options.get("output_dir") or ".")
    resumes = options.get("resume") and (directory / "checkpoint.pth").is_file()
    # Lightning always resumes from its last checkpoint.
    if nothing_trains or resumes or (directory / "last.ckpt").is_file():
        return
    entries = [(entry.split(":") + [""] * 4)[:4] for entry in options.get("init_param") or []]
    for name, upstream in find_upstreams(model).items():
        if not upstream.has_weights and not any(
            _fills(f"{name}.encoder", target, excluded) for _, _, target, excluded in entries
        ):
            raise HJPruneError(
                "the upstream is described by architecture but has random weights; give the "
                "model file by --init_param, or remove architecture so that the upstream is loaded"
            )


def _fills(name: str, target: str, excluded: str) -> bool:
    """Whether an entry of ``init_param`` gives the part of a model of this name its weights."""

    def within(part: str) -> bool:
        return name == part or name.startswith(f"{part}.")

    return (not target or within(target)) and not any(
        within(part) for part in excluded.split(",") if part
    )


def _check_init_param(options: Mapping[str, Any]) -> None:
    """ESPnet executes what these files hold, and sorts out names before the model sees them."""
    for entry in options.get("init_param") or []:
        file, source, _, excluded = (entry.split(":") + [""] * 3)[:4]
        if not Path(file).is_file():
            raise HJPruneError(f"{file} of init_param does not exist; give another file")
        try:
            state = read_checkpoint(file, SAVE_WEIGHTS, mmap=True)
        except HJPruneError:
            raise
        except (OSError, ValueError) as error:
            raise HJPruneError(
                f"{file} of init_param is no file of weights ({error}); give another one"
            ) from error
        if not options.get("ignore_init_mismatch"):
            continue
        names = [name for name in state.get("module", state) if name.startswith(source)]
        if excluded:
            names = [name for name in names if not name.startswith(tuple(excluded.split(",")))]
        if any(STOCK in name for name in names):
            raise HJPruneError(
                f"ignore_init_mismatch: true would drop the upstream of {file}, a model of "
                "ESPnet's s3prl frontend; set ignore_init_mismatch: false, and leave out what does "
                f"not fit by name, as in {file}:::ctc,decoder"
            )
