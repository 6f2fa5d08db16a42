"""The augmented Lagrangian that holds the sparsity at its target (paper Eqs. 5, 6 and 9)."""

from __future__ import annotations

import torch
from torch import nn

from espnet_hjprune.pruning.config import PruningConfig
from espnet_hjprune.pruning.schedule import TargetSchedule


class Constraint(nn.Module):
    """``sum over measures of lambda1 (s - t) + lambda2 (s - t)^2``, maximised over lambda.

    The measures' expected sparsities s are held at the target t, which follows a
    :class:`TargetSchedule`. The clock is the number of steps of the optimiser that trains the
    multipliers (see :func:`~espnet_hjprune.pruning.optimizer.attach`): it does not count
    accumulated or skipped batches, and it is saved with the model, so that resumed training goes on
    where it was.

    The multipliers start at 0 and ascend by the optimiser, in a group with ``maximize``.
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
        # Floats, because averaging checkpoints adds integers up. The second, 1 for the level that
        # the target is at, tells an average over epochs of one level from all others.
        self.register_buffer("num_steps", torch.zeros((), dtype=torch.float32))
        self.register_buffer("on_target", torch.zeros(len(options.levels), dtype=torch.float32))
        self._note_progress()

    @torch.no_grad()
    def reset(self) -> None:
        """Start over: multipliers and clock at 0."""
        for tensor in (self.lambda1, self.lambda2, self.num_steps):
            tensor.zero_()
        self._note_progress()

    @torch.no_grad()
    def count_step(self, steps: float | torch.Tensor = 1.0) -> None:
        """Advance the clock by one optimiser step, or by none where it was skipped."""
        self.num_steps += steps
        self._note_progress()

    def _note_progress(self) -> None:
        self.on_target.copy_(self.schedule.at_level(self.num_steps))

    def current_target(self) -> torch.Tensor:
        """Scheduled target of every measure, ``(measures,)``, float32."""
        target: torch.Tensor = self.schedule(self.num_steps)
        return target

    @property
    def level(self) -> int | None:
        """Which of the schedule's levels the target is at; ``None`` on the way to one."""
        at_level = self.schedule.at_level(self.num_steps)
        return int(at_level.int().argmax()) if bool(at_level.any()) else None

    @property
    def is_on_target(self) -> bool:
        """Whether the target had reached a level, in all epochs of an average the same one."""
        return bool((self.on_target == 1).any())

    @property
    def mixes_targets(self) -> bool:
        """Whether this is an average over epochs that were not all at the same level."""
        return bool(((self.on_target > 0) & (self.on_target < 1)).any())

    def forward(self, sparsity: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Penalty for the expected sparsities at this target, both ``(measures,)``; a scalar."""
        distance = sparsity - target
        squared = distance.square()
        penalty = self.lambda1 * distance + self.lambda2 * squared
        return (penalty + self.damping * squared).sum()
