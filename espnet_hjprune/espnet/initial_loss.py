"""What the gates do to the loss of the model that is pruned, before they have learned anything."""

from __future__ import annotations

import logging
import statistics
from typing import Any

import torch
from espnet2.train.abs_espnet_model import AbsESPnetModel

from espnet_hjprune.espnet.first_batch import Batch, BeforeFirstBatch
from espnet_hjprune.espnet.losses import find_pruners
from espnet_hjprune.model.upstream import SpeechUpstream
from espnet_hjprune.pruning.pruner import Pruner

# Mean over so many drawings of the gates.
DRAWS = 5
# The loss may differ by this share; more harms the model that pruning starts from.
TOLERANCE = 0.05
# A loss that is nothing but rounding.
ROUNDING = 1e-6


def report_initial_loss(model: AbsESPnetModel) -> None:
    """Log the loss of the first training batch without gates and with gates as they are drawn.

    Both are without dropout and masks. A training that goes on where it was says nothing.

    Args:
        model: a model that has gates; any other, and the control, is left alone.
    """
    pruners = find_pruners(model)
    # Gates that are set by scores are not drawn.
    if pruners and pruners[0].options.units and not pruners[0].options.scores:
        _InitialLoss(model)


class _InitialLoss(BeforeFirstBatch):
    """Measures both losses."""

    def run(
        self,
        model: AbsESPnetModel,
        upstream: SpeechUpstream,
        pruner: Pruner,
        args: tuple[Any, ...],
        batch: Batch,
    ) -> None:
        """Log them."""
        # Not through the hooks, which add the constraint and the teacher.
        model.eval()
        with torch.no_grad():
            with upstream.without_gates():
                dense = _loss(model.forward(*args, **batch))
            pruner.train()
            drawn = [_loss(model.forward(*args, **batch)) for _ in range(DRAWS)]
        model.train()
        if dense is None or None in drawn:  # Some tasks have no loss outside of training.
            return
        gated = statistics.fmean(loss for loss in drawn if loss is not None)
        if dense < ROUNDING:
            # Without labels the model begins as its own teacher.
            logging.info(
                "Loss of the first batch: 0 without gates, %.4g with gates as drawn, mean of %d",
                gated,
                DRAWS,
            )
            return
        change = gated / dense - 1
        line = (
            f"Loss of the first batch: {dense:.4g} without gates, {gated:.4g} ({change:+.1%}) with "
            f"gates as drawn, mean of {DRAWS}"
        )
        if abs(change) > TOLERANCE:
            logging.warning(
                "%s; the gates change the model that they start from: raise pruning.initial_keep, "
                "first of all that of conv and hidden",
                line,
            )
        else:
            logging.info(line)


def _loss(result: Any) -> float | None:
    """The task's loss in what a model has returned."""
    return float(result[0]) if isinstance(result, tuple) else None
