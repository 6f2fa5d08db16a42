"""The plugin in ESPnet's tasks: registries, and two seams, at a model and at its optimiser.

All that a training with gates needs beyond ESPnet happens in :func:`after_build_model`, when the
options are checked, and in :func:`after_build_optimizers`. ``doc/espnet_integration.md`` has the
whole way of a training step.
"""

from __future__ import annotations

import argparse
import functools
import inspect
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from types import ModuleType
from typing import Any

import torch
from espnet2.asr.encoder.abs_encoder import AbsEncoder
from espnet2.asr.frontend.abs_frontend import AbsFrontend
from espnet2.train.abs_espnet_model import AbsESPnetModel
from espnet2.train.class_choices import ClassChoices

from espnet_hjprune.espnet.ctc_head import init_ctc
from espnet_hjprune.espnet.encoder import HJPruneEncoder
from espnet_hjprune.espnet.frontend import HJPruneFrontend
from espnet_hjprune.espnet.initial_loss import report_initial_loss
from espnet_hjprune.espnet.losses import add_constraint, find_pruners, find_upstreams
from espnet_hjprune.espnet.precision import scale_gradients_in_float16, use_mixed_precision
from espnet_hjprune.espnet.short_audio import keep_short_audio
from espnet_hjprune.espnet.teacher import add_teacher
from espnet_hjprune.espnet.training_options import (
    check_gate_travel,
    check_options,
    convert_numbers,
)
from espnet_hjprune.espnet.unit_scores import score_units_once
from espnet_hjprune.model.alignment import measuring_on
from espnet_hjprune.model.espnet_config import (
    NAME,
    SCHEDULER,
    drop_reading_options,
    plugin_names,
    source_options,
)
from espnet_hjprune.model.upstream_options import UpstreamOptions
from espnet_hjprune.pruning.optimizer import attach
from espnet_hjprune.pruning.pruner import Pruner

ABS_TASK = "espnet2.tasks.abs_task"
# Tasks whose models are made of the models of other tasks build those by their tasks.
_building = ContextVar("building", default=False)
_extended: set[Any] = set()


def after_build_model(args: argparse.Namespace, model: AbsESPnetModel) -> None:
    """What is done to every model that a task has built, to load it or to train it.

    The constraint joins the loss, and the options get the architecture that was found, the
    alignment that was measured and the table of latencies that was read, so that the configuration
    which ESPnet saves builds the same model again, without s3prl and checkpoint. How the checkpoint
    was read does not stay in it.

    Raises:
        HJPruneError: the model has two upstreams with gates.
    """
    upstreams = find_upstreams(model)
    if getattr(args, "init", None) is not None:
        # ESPnet restores some of the parts that it has initialised anew, not all.
        for upstream in upstreams.values():
            upstream.reload_pretrained_parameters()
    add_constraint(model)
    for option in plugin_names(vars(args)):
        source = source_options(vars(args), option)
        asked = UpstreamOptions.from_dict(source)
        for upstream in upstreams.values():
            found = upstream.options
            same = (found.upstream, found.path_or_url) == (asked.upstream, asked.path_or_url)
            if same and asked.architecture in (None, found.architecture):
                source["architecture"] = upstream.config.to_dict()
                pruning = vars(args)[f"{option}_conf"].get("pruning") or {}
                if pruning and upstream.pruner is not None:
                    pruning |= found_options(upstream.pruner, pruning)
    drop_reading_options(vars(args))


def found_options(pruner: Pruner, options: Mapping[str, Any]) -> dict[str, Any]:
    """What was found where the options of a pruning only say how to find it."""
    found: dict[str, Any] = {}
    if options.get("round_to") == "auto":
        found["round_to"] = pruner.options.alignment
    table = pruner.measures[0].table
    if isinstance(options.get("latency_table"), str) and table is not None:
        # Its file may change, or stay behind.
        found["latency_table"] = table.to_dict()
    return found


def after_build_optimizers(
    task: type,
    args: argparse.Namespace,
    model: AbsESPnetModel,
    optimizers: Sequence[torch.optim.Optimizer],
) -> None:
    """What is done before a model is trained; decoding does not come here.

    Gates and multipliers get their own groups in the optimiser, frontends the mixed precision of
    the training, and the teacher joins the loss; the constraint too, if the model was not built by
    a task. The CTC layer begins as the checkpoint's, gates are set by scores, and encoders are
    compiled, where their options say so; from here on audio without a frame is padded.

    Raises:
        HJPruneError: the optimiser cannot train gates, there is no teacher or no compiler, or the
            checkpoint's CTC layer does not fit.
    """
    add_constraint(model)
    keep_short_audio(model)
    use_mixed_precision(vars(args), model)
    scale_gradients_in_float16(vars(args), model)
    for pruner in find_pruners(model):
        attach(pruner, _optimizer_of(pruner, optimizers))
    nothing_trains = getattr(args, "collect_stats", False) or getattr(args, "dry_run", False)
    if nothing_trains:
        return
    for pruner in find_pruners(model):
        check_gate_travel(vars(args), pruner)
    report_initial_loss(model)
    score_units_once(model)
    init_ctc(vars(args), model)
    add_teacher(task, vars(args), model)
    for upstream in find_upstreams(model).values():
        if upstream.options.compile:
            upstream.compile_encoder()


def _optimizer_of(
    pruner: Pruner, optimizers: Sequence[torch.optim.Optimizer]
) -> torch.optim.Optimizer:
    """The optimiser that got the gates with the model's other parameters; some tasks have two."""
    gates = id(pruner.gates.log_alpha)
    for optimizer in optimizers:
        if any(gates == id(p) for group in optimizer.param_groups for p in group["params"]):
            return optimizer
    return optimizers[0]


def register_task(module: ModuleType) -> None:
    """Register the plugin with an ``espnet2.tasks`` module; once is enough, twice does no harm."""
    if module.__name__ == ABS_TASK:
        from espnet_hjprune.espnet.scheduler import LinearWarmupDecay

        module.scheduler_classes[SCHEDULER] = LinearWarmupDecay
        _extend_build_optimizers(module.AbsTask)
        return
    # Some tasks have several registries, such as asr_encoder and st_encoder.
    choices = [value for value in vars(module).values() if isinstance(value, ClassChoices)]
    for choice in choices:
        if choice.base_type is AbsFrontend:
            choice.classes[NAME] = HJPruneFrontend
        elif choice.base_type is AbsEncoder:
            choice.classes[NAME] = HJPruneEncoder
        elif choice.name == "model" and choice.default is not None:
            choice.classes[NAME] = choice.classes[choice.default]
    if any(choice.base_type in (AbsFrontend, AbsEncoder) for choice in choices):
        for value in list(vars(module).values()):
            if inspect.isclass(value) and value.__module__ == module.__name__:
                _extend_build_model(value)
                _extend_build_optimizers(value)


def _extend_build_model(task: type) -> None:
    """First seam: call :func:`after_build_model` at the end of a task's ``build_model``."""
    build = vars(task).get("build_model")
    if not isinstance(build, classmethod) or build.__func__ in _extended:
        return

    @functools.wraps(build.__func__)
    def build_model(cls: type, args: argparse.Namespace) -> Any:
        device = "cuda" if getattr(args, "ngpu", 0) else "cpu"
        with _outermost() as is_outermost, measuring_on(device):
            model = build.__func__(cls, args)
        if is_outermost:
            after_build_model(args, model)
        return model

    _extended.add(build_model)
    task.build_model = classmethod(build_model)  # type: ignore[attr-defined]


@contextmanager
def _outermost() -> Iterator[bool]:
    """Say whether this model is no part of one that is being built."""
    inner = _building.get()
    token = _building.set(True)
    try:
        yield not inner
    finally:
        _building.reset(token)


def _extend_build_optimizers(task: type) -> None:
    """Second seam: check and convert the options, and go on after ``build_optimizers``.

    Most tasks have that of the base class.
    """
    build = vars(task).get("build_optimizers")
    if not isinstance(build, classmethod) or build.__func__ in _extended:
        return

    @functools.wraps(build.__func__)
    def build_optimizers(cls: type, args: argparse.Namespace, model: Any) -> Any:
        check_options(vars(args), model)
        if find_upstreams(model):
            convert_numbers(vars(args))
        optimizers = build.__func__(cls, args, model)
        after_build_optimizers(cls, args, model, optimizers)
        return optimizers

    _extended.add(build_optimizers)
    task.build_optimizers = classmethod(build_optimizers)  # type: ignore[attr-defined]
