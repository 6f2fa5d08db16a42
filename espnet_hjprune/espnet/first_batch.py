"""What is done once with the first training batch of a model that has gates."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

from espnet2.train.abs_espnet_model import AbsESPnetModel

from espnet_hjprune.espnet.losses import find_upstreams
from espnet_hjprune.model.upstream import SpeechUpstream
from espnet_hjprune.pruning.pruner import Pruner

Batch = Mapping[str, Any]


class BeforeFirstBatch(ABC):
    """A hook that runs before the first forward pass in training, once, and then leaves.

    A training that goes on where it was has had its first batch.
    """

    def __init__(self, model: AbsESPnetModel) -> None:
        self._handle = model.register_forward_pre_hook(self, with_kwargs=True)

    @abstractmethod
    def run(
        self,
        model: AbsESPnetModel,
        upstream: SpeechUpstream,
        pruner: Pruner,
        args: tuple[Any, ...],
        batch: Batch,
    ) -> None:
        """Do it; the model is in training when it is called, and must be so again after it."""

    def __call__(self, model: AbsESPnetModel, args: tuple[Any, ...], batch: Batch) -> None:
        """The hook."""
        if not model.training:
            return
        self._handle.remove()
        (upstream,) = [u for u in find_upstreams(model).values() if u.pruner is not None]
        pruner = upstream.pruner
        assert pruner is not None
        if pruner.constraint.num_steps == 0:
            self.run(model, upstream, pruner, args, batch)
