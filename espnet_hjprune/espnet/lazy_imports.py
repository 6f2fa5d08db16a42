"""Shorter start of ESPnet's programs."""

from __future__ import annotations

import importlib.abc
import importlib.util
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType

# ESPnet imports these at its start, for phonemes and for cleaning text. They take seconds, and
# g2p_en asks a server for its data.
SELDOM_NEEDED = ("g2p_en", "tacotron_cleaner.cleaners")


class _LazyFinder(importlib.abc.MetaPathFinder):
    """Finds the modules, but has them executed only when something of them is used."""

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """The module's own spec with a lazy loader, or ``None`` for any other module."""
        if name not in SELDOM_NEEDED:
            return None
        spec = PathFinder.find_spec(name, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader = importlib.util.LazyLoader(spec.loader)
        return spec


def import_lazily() -> None:
    """Put off what ESPnet imports and hardly ever uses, in this process."""
    if not any(isinstance(finder, _LazyFinder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _LazyFinder())
