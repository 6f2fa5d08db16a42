"""ESPnet models with the sparsity constraint in their loss."""

from __future__ import annotations

import functools
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


class ConstraintMixin:
    """Adds the constraint to a model's loss and its figures to the statistics.

    The reported ``loss`` stays the task's; ``loss_constraint`` stands beside it.
    """

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Task loss plus constraint, statistics and batch weight.

        What is no loss, such as the embeddings that the speaker task asks for in validation, is
        handed on.

        Raises:
            HJPruneError: gates or multipliers are frozen or not in float32.
        """
        (pruner,) = find_pruners(self)  # type: ignore[arg-type]
        if self.training:  # type: ignore[attr-defined]
            _check_trainable(pruner)
        result = super().forward(*args, **kwargs)  # type: ignore[misc]
        if not isinstance(result, tuple):
            return result
        loss, stats, weight = result
        penalty, figures = pruner.regularise()
        loss = loss + penalty.to(loss.dtype)
        return loss, stats | force_gatherable(figures, loss.device), weight


def _check_trainable(pruner: Pruner) -> None:
    if not all(parameter.requires_grad for parameter in pruner.parameters()):
        raise HJPruneError(
            "freeze_param has frozen the gates too, which then never close; to freeze the "
            "upstream's weights only, name its part core.encoder, as in frontend.core.encoder"
        )
    if any(parameter.dtype != torch.float32 for parameter in pruner.parameters()):
        raise HJPruneError(
            "the gates are not in float32, in which they must be trained; use mixed precision "
            "(use_amp: true, for Lightning precision: bf16-mixed) instead of a model in half "
            "precision"
        )


@functools.cache
def constrained(model_class: type[AbsESPnetModel]) -> type[AbsESPnetModel]:
    """Derive the version of an ESPnet model class that has the constraint in its loss."""
    return type(f"HJPrune{model_class.__name__}", (ConstraintMixin, model_class), {})


def constrain(model: AbsESPnetModel) -> AbsESPnetModel:
    """Make a model that has gates add the constraint to its loss, whatever its class.

    Raises:
        HJPruneError: the model has more than one upstream with gates.
    """
    gated = [u for u in find_upstreams(model).values() if u.pruner is not None]
    if len(gated) > 1:
        raise HJPruneError(
            f"the model has {len(gated)} upstreams with gates; give one of them pruning options"
        )
    for upstream in gated:
        # A part that is a model itself, as in the task enh_s2t, must not add the constraint too.
        for module in model.modules():
            if isinstance(module, ConstraintMixin):
                module.__class__ = type(module).__bases__[1]
        model.__class__ = constrained(type(model))
        upstream.constraint_in_loss = True
    return model
