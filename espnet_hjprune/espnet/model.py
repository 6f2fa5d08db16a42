"""ESPnet models with the sparsity constraint in their loss."""

from __future__ import annotations

from typing import Any

import torch
from espnet2.torch_utils.device_funcs import force_gatherable
from espnet2.train.abs_espnet_model import AbsESPnetModel

from espnet_hjprune.errors import HJPruneError
from espnet_hjprune.espnet.upstream_module import SpeechUpstream


def find_upstreams(model: torch.nn.Module) -> dict[str, SpeechUpstream]:
    """The ``hj_prune`` upstreams of a model by their module path."""
    return {
        name: module for name, module in model.named_modules() if isinstance(module, SpeechUpstream)
    }


class ConstraintMixin:
    """Adds the constraint to a model's loss and its figures to the statistics.

    The reported ``loss`` stays the task's; ``loss_constraint`` stands beside it.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        gated = [u for u in find_upstreams(self).values() if u.pruner is not None]  # type: ignore[arg-type]
        if len(gated) != 1:
            raise HJPruneError(
                f"model: hj_prune needs one hj_prune frontend or encoder with pruning options, "
                f"but there are {len(gated)}"
            )
        gated[0].constraint_in_loss = True

    def forward(
        self, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor], torch.Tensor]:
        """Task loss plus constraint, statistics and batch weight."""
        loss, stats, weight = super().forward(*args, **kwargs)  # type: ignore[misc]
        for upstream in find_upstreams(self).values():  # type: ignore[arg-type]
            if upstream.pruner is not None:
                penalty, figures = upstream.pruner.regularise()
                loss = loss + penalty.to(loss.dtype)
                stats.update(force_gatherable(figures, loss.device))
        return loss, stats, weight


def constrained(model_class: type[AbsESPnetModel]) -> type[AbsESPnetModel]:
    """Derive the ``hj_prune`` version of an ESPnet model class."""
    return type(f"HJPrune{model_class.__name__}", (ConstraintMixin, model_class), {})
