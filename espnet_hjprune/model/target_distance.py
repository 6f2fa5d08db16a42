"""How far the gates of a pruning have come: their expected sparsity against the target.

Compaction meets the target whatever the gates say: it shifts the log-odds of all of them. That
repairs what rounding and the swing of the constraint leave. Gates that are far from the target have
chosen nothing yet, or have closed units that would be opened again.
"""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass

import torch

from espnet_hjprune.errors import HJPruneError
from espnet_hjprune.pruning.pruner import Pruner

# Shares of the cost. Prunings of the mini recipe ended 0.002 and 0.009 from a target of 0.4, and at
# several targets, each held for two epochs, 0.000 to 0.013 from them.
NOTABLE = 0.02
FAR = 0.1
# The gates may not miss a larger share of a small target than this.
FAR_SHARE = 0.5
# A target of zero, as of the control, is met by what differs from it by rounding.
ROUNDING = 1e-6


@dataclass(frozen=True)
class TargetDistance:
    """Expected sparsity and target of a constraint.

    Attributes:
        name: part of the encoder, ``cnn`` or ``transformer``; empty for the whole.
        expected: expected sparsity of the gates.
        target: what it was held at.
    """

    name: str
    expected: float
    target: float

    @property
    def is_notable(self) -> bool:
        """Whether the distance is worth a warning."""
        return not abs(self.expected - self.target) <= NOTABLE

    @property
    def is_far(self) -> bool:
        """Whether the gates have not done what they were asked for."""
        limit = max(min(FAR, FAR_SHARE * self.target), ROUNDING)
        return not abs(self.expected - self.target) <= limit

    def __str__(self) -> str:
        """What the gates and the target are."""
        part = f" of {self.name}" if self.name else ""
        return f"the expected sparsity{part} is {self.expected:.3f}, the target {self.target:g}"


@torch.no_grad()
def target_distances(pruner: Pruner) -> list[TargetDistance]:
    """The distances of all constraints, at the target that holds now."""
    expected = pruner.expected_sparsity().tolist()
    return [
        TargetDistance(measure.name, value, measure.target)
        for measure, value in zip(pruner.current_measures(), expected, strict=True)
    ]


def describe(distances: list[TargetDistance]) -> str:
    """What the gates and the targets are, and what brings them together."""
    off = [distance for distance in distances if distance.is_notable]
    figures = " and ".join(map(str, off))
    if any(math.isnan(distance.expected) for distance in off):
        return f"{figures}; the training has diverged, so prune again with lower rates"
    remedies = []
    if any(distance.expected < distance.target for distance in off):
        remedies.append("raise gate_lr and lambda_lr")
    if any(distance.expected > distance.target for distance in off):
        remedies.append("raise damping")
    return f"{figures}; prune for more epochs, or {' and '.join(remedies)}"


def check_distance(pruner: Pruner, allow_off_target: bool = False) -> None:
    """Warn of gates that are off their target.

    Args:
        pruner: the gates.
        allow_off_target: warn only, however far they are.

    Raises:
        HJPruneError: they are far from it, and that is not allowed.
    """
    distances = target_distances(pruner)
    if any(distance.is_far for distance in distances) and not allow_off_target:
        raise HJPruneError(
            f"the gates are far from their target: {describe(distances)}, or compact them all the "
            "same with the option allow_off_target true"
        )
    if any(distance.is_notable for distance in distances):
        logging.warning("Compaction makes up for gates off their target: %s", describe(distances))
