"""Registers the plugin with ESPnet's tasks at the moment they are imported.

Importing a task takes many seconds, so nothing is imported for the sake of registering.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import sys
from collections.abc import Sequence
from types import ModuleType

NAME = "hj_prune"
SCHEDULER = "linear_warmup_decay"
TASKS = "espnet2.tasks."


def register_task(module: ModuleType) -> None:
    """Add ``hj_prune`` to whatever registries an ``espnet2.tasks`` module has."""
    if module.__name__ == TASKS + "abs_task":
        from espnet_hjprune.espnet.scheduler import LinearWarmupDecay

        module.scheduler_classes[SCHEDULER] = LinearWarmupDecay
        return
    if hasattr(module, "frontend_choices"):
        from espnet_hjprune.espnet.frontend import HJPruneFrontend

        module.frontend_choices.classes[NAME] = HJPruneFrontend
    if hasattr(module, "encoder_choices"):
        from espnet_hjprune.espnet.encoder import HJPruneEncoder

        module.encoder_choices.classes[NAME] = HJPruneEncoder
    if hasattr(module, "model_choices"):
        from espnet_hjprune.espnet.model import constrained

        choices = module.model_choices
        choices.classes[NAME] = constrained(choices.classes[choices.default])


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
        register_task(module)


class _TaskFinder(importlib.abc.MetaPathFinder):
    """Finds ``espnet2.tasks`` modules as usual and wraps their loader."""

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """Return the usual spec of a task module, ``None`` for any other module."""
        if not name.startswith(TASKS):
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
        if name.startswith(TASKS) and module is not None:
            register_task(module)
