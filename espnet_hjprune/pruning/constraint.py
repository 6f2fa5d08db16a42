"""The augmented Lagrangian that holds the sparsity at its target (paper Eqs. 5, 6 and 9)."""

from __future__ import annotations

import weakref
from typing import Any

import torch
from torch import nn
from torch.optim.optimizer import (
    register_optimizer_step_post_hook,
    register_optimizer_step_pre_hook,
)

from espnet_hjprune.errors import HJPruneError
from espnet_hjprune.pruning.config import PruningConfig
from espnet_hjprune.pruning.gates import set_optimizer_options
from espnet_hjprune.pruning.schedule import TargetSchedule


class Constraint(nn.Module):
    """``sum over measures of lambda1 (s - t) + lambda2 (s - t)^2``, maximised over lambda.

    The target t follows a :class:`TargetSchedule`. The clock is the number of optimiser steps that
    updated the multipliers: it does not count accumulated or skipped batches, and it is saved with
    the model, so that resumed training goes on where it was.
    """

    num_steps: torch.Tensor
    on_target: torch.Tensor

    def __init__(self, options: PruningConfig) -> None:
        super().__init__()
        self.names = list(options.targets)
        self.schedule = TargetSchedule(
            [list(level.values()) for level in options.levels],
            options.ramp_steps,
            options.hold_steps,
            options.rise_steps,
        )
        self.damping = options.damping
        self.lambda1 = nn.Parameter(torch.zeros(len(self.names)))
        self.lambda2 = nn.Parameter(torch.zeros(len(self.names)))
        for parameter in (self.lambda1, self.lambda2):
            set_optimizer_options(parameter, options.lambda_lr, maximize=True)
        # Floats, because averaging checkpoints adds integers up. The second, 1 for the level that
        # the target is at, tells an average over epochs of one level from all others.
        self.register_buffer("num_steps", torch.zeros((), dtype=torch.float32))
        self.register_buffer("on_target", torch.zeros(len(options.levels), dtype=torch.float32))
        self._note_progress()
        self.optimizer_checked = False
        _constraints.add(self)

    @torch.no_grad()
    def reset(self) -> None:
        """Start over: multipliers and clock at 0."""
        for tensor in (self.lambda1, self.lambda2, self.num_steps):
            tensor.zero_()
        self._note_progress()

    @torch.no_grad()
    def count_step(self) -> None:
        """Advance the clock by one optimiser step."""
        self.num_steps += 1
        self._note_progress()

    def _note_progress(self) -> None:
        self.on_target.copy_(self.schedule.at_level(self.num_steps))

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        steps, name = state_dict.get(f"{prefix}num_steps"), f"{prefix}on_target"
        if steps is not None and name not in state_dict:
            # Models from before this was saved; of their averages it cannot be known.
            state_dict[name] = self.schedule.at_level(steps.to(self.num_steps.device)).float()
        elif steps is not None and state_dict[name].dim() == 0:
            # Models from before there were several levels.
            state_dict[name] = state_dict[name].reshape(1)
        super()._load_from_state_dict(state_dict, prefix, *rest)

    def current_target(self) -> torch.Tensor:
        """Scheduled target of every measure, ``(measures,)``."""
        return self.schedule(self.num_steps)

    @property
    def is_on_target(self) -> bool:
        """Whether the target had reached a level, in all epochs of an average the same one."""
        return bool((self.on_target == 1).any())

    @property
    def mixes_targets(self) -> bool:
        """Whether this is an average over epochs that were not all at the same level."""
        return bool(((self.on_target > 0) & (self.on_target < 1)).any())

    def forward(self, sparsity: torch.Tensor) -> torch.Tensor:
        """Penalty for the expected sparsities ``(measures,)``; a scalar in float32."""
        distance = sparsity - self.current_target()
        squared = distance.square()
        penalty = self.lambda1 * distance + self.lambda2 * squared
        return (penalty + self.damping * squared).sum()


_constraints: weakref.WeakSet[Constraint] = weakref.WeakSet()


def _owned(optimizer: torch.optim.Optimizer) -> list[tuple[Constraint, dict[str, Any]]]:
    """Constraints whose multipliers this optimiser updates, with their parameter group."""
    found = []
    for constraint in _constraints:
        for group in optimizer.param_groups:
            if any(parameter is constraint.lambda1 for parameter in group["params"]):
                found.append((constraint, group))
    return found


def _check_groups(optimizer: torch.optim.Optimizer, *_: Any) -> None:
    for constraint, group in _owned(optimizer):
        if constraint.optimizer_checked:
            continue
        if not group.get("maximize"):
            raise HJPruneError(
                "the Lagrange multipliers have no optimiser group of their own; set "
                "exclude_weight_decay: true"
            )
        if not {"maximize", "betas"} <= set(optimizer.defaults):
            raise HJPruneError(
                f"the optimiser {type(optimizer).__name__} cannot train gates, which needs one of "
                "the Adam kind that can maximize; set optim: adamw"
            )
        constraint.optimizer_checked = True


def _count_step(optimizer: torch.optim.Optimizer, *_: Any) -> None:
    for constraint, _group in _owned(optimizer):
        constraint.count_step()


# Hooks of all optimisers: the model never meets the one that trains it, and only the optimiser
# knows which steps were really taken.
register_optimizer_step_pre_hook(_check_groups)
register_optimizer_step_post_hook(_count_step)
