"""Further losses of an ESPnet model: the constraint of its gates, and what a teacher adds."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch
from espnet2.torch_utils.device_funcs import force_gatherable
from espnet2.train.abs_espnet_model import AbsESPnetModel

from espnet_hjprune.errors import HJPruneError
from espnet_hjprune.model.upstream import SpeechUpstream
from espnet_hjprune.pruning.pruner import Pruner


def find_upstreams(model: torch.nn.Module) -> dict[str, SpeechUpstream]:
    """The ``hj_prune`` upstreams of a model by their module path."""
    return {
        name: module for name, module in model.named_modules() if isinstance(module, SpeechUpstream)
    }


def find_pruners(model: torch.nn.Module) -> list[Pruner]:
    """The gates of a model's upstreams."""
    return [u.pruner for u in find_upstreams(model).values() if u.pruner is not None]


class FurtherLoss(ABC):
    """A forward hook of a model that adds a term to its loss, and figures to its statistics.

    The reported ``loss`` stays the task's. What is no loss, such as the embeddings that the
    speaker task asks for in validation, is handed on.
    """

    @abstractmethod
    def terms(self, model: torch.nn.Module) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """A loss, which is a scalar, and figures, after a forward pass of the model."""

    def __call__(self, model: torch.nn.Module, inputs: Any, result: Any) -> Any:
        """The hook: loss, statistics and batch weight with the term in them."""
        if not isinstance(result, tuple):
            return None
        loss, stats, weight = result
        more, figures = self.terms(model)
        return loss + more.to(loss.dtype), stats | force_gatherable(figures, loss.device), weight


class ConstraintLoss(FurtherLoss):
    """The sparsity constraint of a model's gates."""

    def terms(self, model: torch.nn.Module) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """The constraint's loss, and what to log of it."""
        (pruner,) = find_pruners(model)
        return pruner.regularise()


def add_constraint(model: AbsESPnetModel) -> None:
    """Put the sparsity constraint of a model's gates, if there are some, into its loss, once.

    Raises:
        HJPruneError: the model has more than one upstream with gates.
    """
    pruners = find_pruners(model)
    if len(pruners) > 1:
        raise HJPruneError(
            f"the model has {len(pruners)} upstreams with gates; give one of them pruning options"
        )
    there = any(isinstance(hook, ConstraintLoss) for hook in model._forward_hooks.values())
    if pruners and not there:
        model.register_forward_hook(ConstraintLoss())
