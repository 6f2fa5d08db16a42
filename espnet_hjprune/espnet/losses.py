"""Further losses of an ESPnet model: the constraint of its gates, and what a teacher adds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from espnet2.torch_utils.device_funcs import force_gatherable
from espnet2.train.abs_espnet_model import AbsESPnetModel

from espnet_hjprune.errors import HJPruneError
from espnet_hjprune.model.upstream import SpeechUpstream
from espnet_hjprune.pruning.pruner import Pruner

# A loss, a scalar, and figures for the statistics.
LossTerm = Callable[[], tuple[torch.Tensor, dict[str, torch.Tensor]]]


def find_upstreams(model: torch.nn.Module) -> dict[str, SpeechUpstream]:
    """The ``hj_prune`` upstreams of a model by their module path."""
    return {
        name: module for name, module in model.named_modules() if isinstance(module, SpeechUpstream)
    }


def find_pruners(model: torch.nn.Module) -> list[Pruner]:
    """The gates of a model's upstreams."""
    return [u.pruner for u in find_upstreams(model).values() if u.pruner is not None]


def add_loss(model: AbsESPnetModel, term: LossTerm) -> None:
    """Let a model add a term to the loss that it returns, and its figures to the statistics.

    The reported ``loss`` stays the task's. What is no loss, such as the embeddings that the
    speaker task asks for in validation, is handed on.

    Args:
        model: a model of any task, which returns loss, statistics and batch weight.
        term: called after every forward pass of the model.
    """

    def add(module: torch.nn.Module, inputs: Any, result: Any) -> Any:
        if not isinstance(result, tuple):
            return None
        loss, stats, weight = result
        more, figures = term()
        return loss + more.to(loss.dtype), stats | force_gatherable(figures, loss.device), weight

    model.register_forward_hook(add)


def add_constraint(model: AbsESPnetModel) -> None:
    """Put the sparsity constraint of a model's gates, if there are some, into its loss.

    Raises:
        HJPruneError: the model has more than one upstream with gates.
    """
    pruners = find_pruners(model)
    if len(pruners) > 1:
        raise HJPruneError(
            f"the model has {len(pruners)} upstreams with gates; give one of them pruning options"
        )
    for pruner in pruners:
        add_loss(model, pruner.regularise)
