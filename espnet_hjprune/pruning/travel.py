"""How far gates can move in a training, and whether that is far enough for the target.

A step of Adam moves ``log_alpha`` by about its learning rate, whatever the gradient is. Gates that
start wide open, so that they do no harm, have a long way to go.
"""

from __future__ import annotations

import logging
import math

import torch

from espnet_hjprune.errors import HJPruneError
from espnet_hjprune.pruning.pruner import Pruner


def largest_step(betas: tuple[float, float]) -> float:
    """Most that Adam moves a parameter in one step, in learning rates.

    That much follows from a gradient after many of zero; one that always points the same way
    moves it by one learning rate (Kingma and Ba 2015, section 2.1).
    """
    first, second = betas
    return max(1.0, (1 - first) / math.sqrt(1 - second))


@torch.no_grad()
def check_travel(
    pruner: Pruner, distance: float, betas: tuple[float, float] = (0.9, 0.999)
) -> None:
    """Log how far the gates can go down, and refuse a target that is farther.

    Args:
        pruner: gates at their start.
        distance: sum of their learning rates over all optimiser steps.
        betas: of the optimiser.

    Raises:
        HJPruneError: even if every gate went down in every step, the target would not be reached,
            and the options do not allow that.

    Example:
        >>> check_travel(pruner, distance=0.02 * 13380)
    """
    options, constraint = pruner.options, pruner.constraint
    # The control has no gates, and those that are set by scores need not go anywhere.
    if not options.units or options.scores:
        return
    likely = pruner.expected_sparsity(distance).tolist()
    most = pruner.expected_sparsity(distance * largest_step(betas)).tolist()
    start = pruner.expected_sparsity().tolist()
    rows = zip(constraint.names, options.targets.values(), start, likely, most, strict=True)
    for name, target, before, usual, limit in rows:
        what = f"target_sparsity.{name}" if name else "target_sparsity"
        way = (
            f"log_alpha of the gates goes down by about {distance:.1f} at most in the whole "
            f"training, from an expected sparsity of {before:.3f} to {usual:.3f}"
        )
        remedy = (
            f"the pruning.{what} {target} is beyond that; train for more epochs, raise "
            f"pruning.gate_lr {options.gate_lr} or lower pruning.initial_keep"
        )
        if limit < target and not options.allow_off_target:
            raise HJPruneError(
                f"{way}; {remedy}; with pruning.allow_off_target: true (--allow_off_target true in "
                "a recipe) it is trained all the same"
            )
        if usual < target:
            logging.warning("Gates: %s; %s", way, remedy)
        else:
            logging.info("Gates: %s, with the target %s", way, target)
