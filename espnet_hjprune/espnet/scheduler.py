"""Linear warm-up and linear decay of the learning rate, as the paper trains."""

from __future__ import annotations

import logging
from typing import Any

import torch
from espnet2.schedulers.abs_scheduler import AbsBatchStepScheduler
from torch.optim.lr_scheduler import LRScheduler

from espnet_hjprune.errors import HJPruneError
from espnet_hjprune.pruning.optimizer import GATES, MULTIPLIERS
from espnet_hjprune.pruning.rates import pruning_factor, warmup_decay


class LinearWarmupDecay(LRScheduler, AbsBatchStepScheduler):
    """Rise linearly for ``warmup_steps``, then fall linearly to 0 at ``total_steps``.

    Args:
        optimizer: the optimiser.
        warmup_steps: optimiser steps of the rise.
        total_steps: optimiser steps of the whole training.
        pruning_schedule: ``constant`` keeps the learning rates of gates and multipliers,
            ``linear`` lets them follow the weights.
        last_epoch: step to start from.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        warmup_steps: int = 3000,
        total_steps: int = 10000,
        pruning_schedule: str = "constant",
        last_epoch: int = -1,
    ) -> None:
        if pruning_schedule not in ("constant", "linear"):
            raise HJPruneError(
                f"scheduler_conf.pruning_schedule is {pruning_schedule}; it is constant or linear"
            )
        if warmup_steps >= total_steps:
            logging.warning(
                "The learning rate never decays: %s warm-up steps of %s steps in all",
                warmup_steps,
                total_steps,
            )
        self.warmup_steps = warmup_steps
        self.total_steps = total_steps
        self.pruning_schedule = pruning_schedule
        super().__init__(optimizer, last_epoch)

    def factor(self, step: int) -> float:
        """Share of the base learning rate in optimiser step ``step``, counted from 0."""
        return warmup_decay(step, self.warmup_steps, self.total_steps)

    def get_lr(self) -> list[float]:
        """Learning rates of all parameter groups."""
        factor = self.factor(self.last_epoch)
        own = pruning_factor(
            self.last_epoch, self.warmup_steps, self.total_steps, self.pruning_schedule
        )
        return [
            base * (own if group.get("name") in (GATES, MULTIPLIERS) else factor)
            for base, group in zip(self.base_lrs, self.optimizer.param_groups, strict=True)
        ]

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from the step of a checkpoint; the schedule is the one that is configured now.

        The optimiser's state must have been loaded before.
        """
        configured = self.warmup_steps, self.total_steps, self.pruning_schedule
        before = state_dict.get("total_steps", self.total_steps)
        super().load_state_dict(state_dict)
        self.warmup_steps, self.total_steps, self.pruning_schedule = configured
        if before != self.total_steps:
            logging.info(
                "The training has %s steps in all, no longer %s; from step %s on the learning rate "
                "follows the schedule of %s",
                self.total_steps,
                before,
                self.last_epoch,
                self.total_steps,
            )
        self._last_lr = self.get_lr()
        for group, rate in zip(self.optimizer.param_groups, self._last_lr, strict=True):
            group["lr"] = rate
