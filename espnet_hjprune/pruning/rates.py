"""Learning rates over a training: linear warm-up, then linear decay, as the paper trains."""

from __future__ import annotations


def warmup_decay(step: int, warmup_steps: int, total_steps: int) -> float:
    """Share of the base learning rate in optimiser step ``step``, counted from 0."""
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    rest = max(total_steps - warmup_steps, 1)
    return max(0.0, (total_steps - step) / rest)


def pruning_factor(step: int, warmup_steps: int, total_steps: int, pruning_schedule: str) -> float:
    """The same share for gates and multipliers; with a ``constant`` schedule it is always 1."""
    if pruning_schedule == "constant":
        return 1.0
    return warmup_decay(step, warmup_steps, total_steps)


def summed_gate_rate(
    gate_lr: float, warmup_steps: int, total_steps: int, pruning_schedule: str
) -> float:
    """Sum of the gates' learning rates over all steps of a training.

    Args:
        gate_lr: their base learning rate.
        warmup_steps: steps in which the rate of the weights rises.
        total_steps: of the training.
        pruning_schedule: ``constant``, or ``linear`` where gates follow the weights.
    """
    return gate_lr * sum(
        pruning_factor(step, warmup_steps, total_steps, pruning_schedule)
        for step in range(total_steps)
    )
