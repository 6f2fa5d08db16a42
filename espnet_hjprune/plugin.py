"""Registers the plugin with those modules of ESPnet that are imported, and with those to come.

Importing a task of ESPnet takes many seconds, so nothing is imported for the sake of registering.
``espnet_hjprune.bin.run`` registers the tasks that a program has imported, by a call. For users
whose programs only ``import espnet_hjprune``, and for programs that import a task when they run,
an import hook registers each module at the moment it is imported.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import sys
from collections.abc import Sequence
from types import ModuleType

TASKS = "espnet2.tasks."
LIGHTNING = "espnet2.train.lightning_espnet_model"
TRAINER = "espnet2.train.trainer"


def register_with(module: ModuleType) -> None:
    """Register the plugin with a task of ESPnet, or with its Lightning module."""
    if module.__name__ == LIGHTNING:
        from espnet_hjprune.espnet.lightning import register_lightning

        register_lightning(module)
    elif module.__name__ == TRAINER:
        from espnet_hjprune.espnet.atomic_saving import save_atomically

        save_atomically()
    else:
        from espnet_hjprune.espnet.tasks import register_task

        register_task(module)


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


class _Finder(importlib.abc.MetaPathFinder):
    """Finds modules to register with as usual and wraps their loader.

    Attributes:
        with_trainer: whether ESPnet's trainer is one of them, so that it saves atomically.
    """

    def __init__(self) -> None:
        self.with_trainer = False

    def concerns(self, name: str) -> bool:
        """Whether a module is one to register with."""
        return (
            name.startswith(TASKS) or name == LIGHTNING or (name == TRAINER and self.with_trainer)
        )

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """Return the usual spec of such a module, ``None`` for any other module."""
        if not self.concerns(name):
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader = _RegisteringLoader(spec.loader)
        return spec


_finder = _Finder()


def register(*, save_atomically: bool = False) -> None:
    """Register with every module that is imported already, and with those to come.

    Args:
        save_atomically: also let ESPnet's trainer replace its checkpoints instead of overwriting
            them, so that a training which is killed can be resumed.
    """
    _finder.with_trainer |= save_atomically
    for name, module in list(sys.modules.items()):
        if _finder.concerns(name) and isinstance(module, ModuleType):
            register_with(module)
    if _finder not in sys.meta_path:
        sys.meta_path.insert(0, _finder)


def unregister_hook() -> None:
    """Remove the import hook; what is registered stays so."""
    if _finder in sys.meta_path:
        sys.meta_path.remove(_finder)
