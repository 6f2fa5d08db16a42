"""Gates that are set once by scores of the units, before the first training step."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from espnet2.train.abs_espnet_model import AbsESPnetModel

from espnet_hjprune.espnet.first_batch import Batch, BeforeFirstBatch
from espnet_hjprune.espnet.losses import find_pruners
from espnet_hjprune.model.upstream import SpeechUpstream
from espnet_hjprune.nn.gate_values import GateValues
from espnet_hjprune.pruning.importance import magnitude_scores, settle_by_scores, taylor_scores
from espnet_hjprune.pruning.pruner import Pruner


def score_units_once(model: AbsESPnetModel) -> None:
    """Let the first training batch score the units of a model whose options ask for it.

    A training that goes on where it was has its gates already.
    """
    pruners = find_pruners(model)
    if pruners and pruners[0].options.scores:
        _UnitScores(model)


class _UnitScores(BeforeFirstBatch):
    """Settles the gates."""

    def run(
        self,
        model: AbsESPnetModel,
        upstream: SpeechUpstream,
        pruner: Pruner,
        args: tuple[Any, ...],
        batch: Batch,
    ) -> None:
        """Score the units and set the gates."""
        utterances = list(_single(batch))

        def loss_of(utterance: Batch, values: GateValues) -> torch.Tensor:
            # Not through the hooks, which add the constraint and the teacher.
            with upstream.gates_held_at(values):
                loss: torch.Tensor = model.forward(*args, **utterance)[0]
            return loss

        model.eval()
        if pruner.options.scores == "magnitude":
            scores = magnitude_scores(pruner.gates, upstream.encoder)
        else:
            losses = (partial(loss_of, one) for one in utterances)
            scores = taylor_scores(pruner.gates, losses)
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            # The same for all processes, each of which has another batch.
            torch.distributed.all_reduce(scores)
        settle_by_scores(pruner, scores)
        with torch.no_grad():
            dense, cut = (
                sum(float(loss_of(one, values)) for one in utterances) / len(utterances)
                for values in (GateValues(), pruner.evaluation_gates())
            )
        model.train()
        logging.info(
            "Gates are set by %s scores of %d utterances; loss of these %.4g before and %.4g after",
            pruner.options.scores,
            len(utterances),
            dense,
            cut,
        )


def _single(batch: Batch) -> Iterator[dict[str, Any]]:
    """The utterances of a batch, each as a batch of its own."""
    size = max(len(value) for value in batch.values() if torch.is_tensor(value))
    for index in range(size):
        yield {
            name: value[index : index + 1]
            if torch.is_tensor(value) or isinstance(value, list)
            else value
            for name, value in batch.items()
        }
