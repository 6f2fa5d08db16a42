"""Modules that are executed only when something of them is used."""

from __future__ import annotations

import importlib
import sys
from importlib.machinery import PathFinder
from types import ModuleType
from typing import Any


class PostponedModule(ModuleType):
    """Stands for a module, which is executed when the first of its attributes is asked for."""

    def __getattr__(self, name: str) -> Any:
        """Execute the module and return the attribute."""
        # The import system looks for some that modules need not have.
        if name.startswith("__"):
            raise AttributeError(name)
        if sys.modules.get(self.__name__) is self:
            del sys.modules[self.__name__]
        module = importlib.import_module(self.__name__)
        self.__dict__.update(vars(module))
        return getattr(module, name)


def postpone_import(name: str) -> None:
    """Let whoever imports a module in this process get a :class:`PostponedModule`.

    Nothing happens where it is imported already, or is not installed. A package of the module is
    not imported here, but must itself import the module to have it as an attribute.
    """
    package, _, _ = name.rpartition(".")
    path = None
    if package:
        parent = PathFinder.find_spec(package)
        path = parent.submodule_search_locations if parent is not None else []
    spec = PathFinder.find_spec(name, path)
    if name in sys.modules or spec is None:
        return
    module = PostponedModule(name)
    module.__spec__ = spec
    if spec.submodule_search_locations is not None:
        module.__path__ = list(spec.submodule_search_locations)
    sys.modules[name] = module
