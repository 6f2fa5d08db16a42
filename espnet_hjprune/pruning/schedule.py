"""When the target has which value: rises and levels."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn


class TargetSchedule(nn.Module):
    """The target rises linearly from 0 to its first level, and on to further ones.

    Args:
        levels: targets of every measure, ``(levels, measures)``; the last is held to the end.
        ramp_steps: optimiser steps of the first rise.
        hold_steps: for which each of the earlier levels is held.
        rise_steps: of every further rise.
    """

    increments: torch.Tensor
    starts: torch.Tensor
    durations: torch.Tensor

    def __init__(
        self,
        levels: Sequence[Sequence[float]],
        ramp_steps: int,
        hold_steps: int = 0,
        rise_steps: int = 0,
    ) -> None:
        super().__init__()
        values = torch.tensor(levels, dtype=torch.float32)
        durations = torch.full((len(values),), float(rise_steps))
        durations[0] = ramp_steps
        before = torch.cat([torch.zeros(1), durations[:-1] + hold_steps])
        self.register_buffer(
            "increments", values.diff(dim=0, prepend=torch.zeros_like(values[:1])), persistent=False
        )
        self.register_buffer("starts", before.cumsum(0), persistent=False)
        self.register_buffer("durations", durations, persistent=False)

    def forward(self, step: torch.Tensor) -> torch.Tensor:
        """Target of every measure, ``(measures,)``, after so many optimiser steps."""
        # No matrix product: autocast would run it in half precision.
        return (self._progress(step).unsqueeze(-1) * self.increments).sum(0)

    def at_level(self, step: torch.Tensor) -> torch.Tensor:
        """Which level the target is at, ``(levels,)``: all false on the way to one."""
        progress = self._progress(step)
        reached = (progress == 1).sum()
        settled = ((progress == 0) | (progress == 1)).all()
        numbers = torch.arange(len(progress), device=progress.device)
        return (numbers == reached - 1) & settled

    def next_level(self, step: float) -> int:
        """First optimiser step from ``step`` on at which the target is at a level."""
        ends = self.starts + self.durations
        rising = (ends > step) & ((self.starts < step) | (self.starts == 0))
        return int(ends[rising][0]) if bool(rising.any()) else int(step)

    def _progress(self, step: torch.Tensor) -> torch.Tensor:
        """Share of every rise, ``(levels,)``; a rise of no steps is over where it starts."""
        instant = (self.durations == 0).to(self.durations.dtype)
        # A rise of no steps counts as one of a step that ends where it starts.
        share = (step - self.starts + instant) / (self.durations + instant)
        return share.clamp(0.0, 1.0)
