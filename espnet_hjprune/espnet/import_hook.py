"""Registers the plugin with ESPnet's tasks at the moment they are imported.

Importing a task takes many seconds, so nothing is imported for the sake of registering.
"""

from __future__ import annotations

import argparse
import functools
import importlib.abc
import importlib.machinery
import inspect
import sys
from collections.abc import Sequence
from types import ModuleType
from typing import Any

NAME = "hj_prune"
SCHEDULER = "linear_warmup_decay"
TASKS = "espnet2.tasks."
LIGHTNING = "espnet2.train.lightning_espnet_model"


def register_with(module: ModuleType) -> None:
    """Add ``hj_prune`` to whatever registries an ``espnet2.tasks`` module has.

    Every model that its tasks build is made ready for pruning, their trainings check their
    options, and ESPnet's module for Lightning learns of gates.
    """
    if module.__name__ == LIGHTNING:
        from espnet_hjprune.espnet import lightning

        lightning.prepare(module.LitESPnetModel)
        return
    if module.__name__ == TASKS + "abs_task":
        from espnet_hjprune.espnet.scheduler import LinearWarmupDecay

        module.scheduler_classes[SCHEDULER] = LinearWarmupDecay
        _check_trainings_of(module.AbsTask)
        return
    from espnet2.asr.encoder.abs_encoder import AbsEncoder
    from espnet2.asr.frontend.abs_frontend import AbsFrontend
    from espnet2.train.class_choices import ClassChoices

    # Some tasks have several registries, such as asr_encoder and st_encoder.
    choices = [value for value in vars(module).values() if isinstance(value, ClassChoices)]
    for choice in choices:
        if choice.base_type is AbsFrontend:
            from espnet_hjprune.espnet.frontend import HJPruneFrontend

            choice.classes[NAME] = HJPruneFrontend
        elif choice.base_type is AbsEncoder:
            from espnet_hjprune.espnet.encoder import HJPruneEncoder

            choice.classes[NAME] = HJPruneEncoder
        elif choice.name == "model" and choice.default is not None:
            choice.classes[NAME] = choice.classes[choice.default]
    if any(choice.base_type in (AbsFrontend, AbsEncoder) for choice in choices):
        for value in list(vars(module).values()):
            if inspect.isclass(value) and value.__module__ == module.__name__:
                _prepare_models_of(value)


def _check_trainings_of(task: type) -> None:
    """Let ESPnet's tasks check their options and get a teacher before they train.

    Decoding does not come here.
    """
    build = vars(task)["build_optimizers"]

    @functools.wraps(build.__func__)
    def build_optimizers(cls: type, args: argparse.Namespace, model: Any) -> Any:
        from espnet_hjprune.espnet.losses import find_upstreams
        from espnet_hjprune.espnet.options import check_options

        check_options(vars(args), model)
        nothing_trains = getattr(args, "collect_stats", False) or getattr(args, "dry_run", False)
        if find_upstreams(model) and not nothing_trains:
            from espnet_hjprune.espnet.distillation import add_teacher

            add_teacher(cls, vars(args), model)
        return build.__func__(cls, args, model)

    task.build_optimizers = classmethod(build_optimizers)  # type: ignore[attr-defined]


def _prepare_models_of(task: type) -> None:
    """Let a task put the constraint into the loss of what it builds."""
    build = vars(task).get("build_model")
    if not isinstance(build, classmethod):
        return

    @functools.wraps(build.__func__)
    def build_model(cls: type, args: argparse.Namespace) -> Any:
        from espnet_hjprune.espnet.losses import constrain, find_upstreams

        model = build.__func__(cls, args)
        if getattr(args, "init", None) is not None:
            # ESPnet restores some of the parts that it has initialised anew, not all.
            for upstream in find_upstreams(model).values():
                upstream.reload_pretrained_parameters()
        return constrain(model)

    task.build_model = classmethod(build_model)  # type: ignore[attr-defined]


def _concerns(name: str) -> bool:
    """Whether a module is one to register with."""
    return name.startswith(TASKS) or name == LIGHTNING


class _RegisteringLoader(importlib.abc.Loader):
    """Runs a module as its own loader does, then registers."""

    def __init__(self, loader: importlib.abc.Loader) -> None:
        self.loader = loader

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType | None:
        """Leave module creation to the module's loader."""
        return self.loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        """Execute the module and register with it."""
        self.loader.exec_module(module)
        register_with(module)


class _TaskFinder(importlib.abc.MetaPathFinder):
    """Finds modules to register with as usual and wraps their loader."""

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """Return the usual spec of such a module, ``None`` for any other module."""
        if not _concerns(name):
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader = _RegisteringLoader(spec.loader)
        return spec


def register() -> None:
    """Register with every task module, those already imported and those to come."""
    if any(isinstance(finder, _TaskFinder) for finder in sys.meta_path):
        return
    sys.meta_path.insert(0, _TaskFinder())
    for name, module in list(sys.modules.items()):
        if _concerns(name) and module is not None:
            register_with(module)
