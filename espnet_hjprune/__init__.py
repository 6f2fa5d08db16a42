"""Structured pruning of self-supervised speech models (HJ-Pruning), in PyTorch and in ESPnet.

The whole way in Python::

    upstream = load_upstream("wav2vec2_base_960")
    pruner = upstream.add_gates(PruningConfig(target_sparsity=0.4, ramp_steps=1000))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)  # a model that has the upstream
    attach(pruner, optimizer)
    ...                                       # in every step: task loss + pruner.regularise()[0]
    result = compact(upstream)
    save(result.upstream, "compact")          # load("compact") reads it anywhere

Importing this package registers ``hj_prune`` with ESPnet's tasks, where ESPnet is installed.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from espnet_hjprune.errors import HJPruneError
from espnet_hjprune.plugin import register

if TYPE_CHECKING:
    from espnet_hjprune.model.compaction import CompactUpstream, compact, sliced
    from espnet_hjprune.model.loading import load, load_upstream, random_upstream, save
    from espnet_hjprune.model.upstream import SpeechUpstream
    from espnet_hjprune.model.upstream_options import UpstreamOptions
    from espnet_hjprune.pruning.config import PruningConfig
    from espnet_hjprune.pruning.optimizer import attach
    from espnet_hjprune.pruning.pruner import Pruner

__version__ = "0.1.0"

register()

# Where the names of the Python interface are. They are imported when they are used: most commands
# of a recipe need no torch, which takes a second to import.
_HOMES = {
    "CompactUpstream": "model.compaction",
    "Pruner": "pruning.pruner",
    "PruningConfig": "pruning.config",
    "SpeechUpstream": "model.upstream",
    "UpstreamOptions": "model.upstream_options",
    "attach": "pruning.optimizer",
    "compact": "model.compaction",
    "load": "model.loading",
    "load_upstream": "model.loading",
    "random_upstream": "model.loading",
    "save": "model.loading",
    "sliced": "model.compaction",
}


def __getattr__(name: str) -> Any:
    """Import a name of the Python interface."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)


__all__ = [
    "CompactUpstream",
    "HJPruneError",
    "Pruner",
    "PruningConfig",
    "SpeechUpstream",
    "UpstreamOptions",
    "__version__",
    "attach",
    "compact",
    "load",
    "load_upstream",
    "random_upstream",
    "register",
    "save",
    "sliced",
]
