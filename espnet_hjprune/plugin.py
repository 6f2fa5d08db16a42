"""Registers the plugin with ESPnet's tasks at the moment they are imported.

``import espnet_hjprune`` alone does so, for users whose programs import ESPnet themselves; it
imports nothing of ESPnet, which takes many seconds. ``espnet_hjprune.bin.run`` registers by itself.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import sys
from collections.abc import Sequence
from types import ModuleType

TASKS = "espnet2.tasks."
LIGHTNING = "espnet2.train.lightning_espnet_model"


def register_with(module: ModuleType) -> None:
    """Register the plugin with a module of ESPnet that :func:`_concerns` it."""
    if module.__name__ == LIGHTNING:
        from espnet_hjprune.espnet.lightning import register_lightning

        register_lightning(module)
    else:
        from espnet_hjprune.espnet.tasks import register_task

        register_task(module)


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
