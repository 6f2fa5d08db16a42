"""From gate probabilities to a set of kept units whose counted cost meets the target."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch

from espnet_hjprune.pruning.cost import UnitCounts, config_counts
from espnet_hjprune.pruning.gates import GateGroup, GateSet
from espnet_hjprune.pruning.hard_concrete import open_threshold
from espnet_hjprune.pruning.measures import Measure

# The sigmoid of 40 differs from 1 by less than the precision of a double.
CERTAIN_LOG_ODDS = 40.0


class Discretiser:
    """Rounds gates to kept units.

    The procedure is this project's own. The paper only says that units whose gates are closed are
    removed; published code rounds every layer for itself and so misses the target.

    Every group keeps its most probable units, as many as expected. What rounding (and training)
    left between the counted cost and the target is closed globally: one shift of all log-odds,
    found by bisection, brings the cost just under the target, then single units are added back,
    the most probable first, as long as they fit.
    """

    def __init__(self, gates: GateSet) -> None:
        self.groups: Sequence[GateGroup] = gates.groups
        self.options = gates.options
        self.config = gates.encoder_config
        threshold = open_threshold(self.options.beta, self.options.stretch)
        self.log_odds = gates.log_alpha.detach().double().cpu().numpy() - threshold
        # Stable order: the most probable unit first, ties by position.
        self.order = [np.argsort(-self.log_odds[g.slice], kind="stable") for g in self.groups]
        widths = self.config.positional.group_widths
        self.positional_group = np.repeat(np.arange(len(widths)), widths)
        self.kept = [group.size for group in self.groups]

    def run(self, measures: Sequence[Measure], targets: Sequence[float]) -> torch.Tensor:
        """Choose the kept units, boolean ``(all gates,)``.

        Args:
            measures: the criterion's measures; CNN before Transformer, whose cost depends on it.
            targets: sparsity that each measure must reach.
        """
        for measure, target in zip(measures, targets, strict=True):
            self._meet(measure, (1 - target) * measure.dense)
        keep = np.zeros(len(self.log_odds), dtype=bool)
        for group, order, count in zip(self.groups, self.order, self.kept, strict=True):
            keep[group.start + order[:count]] = True
        return torch.from_numpy(keep)

    def counts(self) -> UnitCounts:
        """The currently kept units."""
        counts = config_counts(self.config)
        for group, order, kept in zip(self.groups, self.order, self.kept, strict=True):
            if group.unit == "hidden":
                counts.hidden = kept
                widths = np.bincount(
                    self.positional_group[order[:kept]],
                    minlength=len(self.config.positional.group_widths),
                )
                counts.positional_pairs = int((widths.astype(np.int64) ** 2).sum())
            else:
                getattr(counts, group.unit)[group.layer] = kept
        return counts

    def _step(self, group: GateGroup) -> int:
        return self.options.alignment if group.unit != "head" else 1

    def _round(self, group: GateGroup, shift: float) -> int:
        """Units to keep when all log-odds rise by ``shift``."""
        expected = float((0.5 * (1 + np.tanh((self.log_odds[group.slice] + shift) / 2))).sum())
        step = self._step(group)
        count = round(expected / step) * step
        fewest = min(step, group.size) if group.minimum else 0
        return min(max(count, fewest), group.size)

    def _meet(self, measure: Measure, budget: float) -> None:
        """Keep as much as fits into ``budget`` among the units of ``measure``."""
        members = [i for i, group in enumerate(self.groups) if group.unit in measure.units]

        def cost() -> int:
            return int(measure.cost(self.config, self.counts()))

        def apply(shift: float) -> int:
            for index in members:
                self.kept[index] = self._round(self.groups[index], shift)
            return cost()

        # Beyond this shift every gate is open, or closed, with certainty in double precision.
        reach = float(np.abs(self.log_odds).max(initial=0.0)) + CERTAIN_LOG_ODDS
        low, high = -reach, reach
        if apply(high) > budget:
            # Far below what moves a single unit; 30 halvings.
            while high - low > 1e-9 * reach:
                middle = (low + high) / 2
                if apply(middle) > budget:
                    high = middle
                else:
                    low = middle
            apply(low)
        self._fill(members, budget, cost)

    def _fill(self, members: list[int], budget: float, cost: Callable[[], int]) -> None:
        """Add the most probable closed units back while the cost stays within ``budget``."""
        open_to = set(members)
        while open_to:
            candidates = []
            for index in open_to:
                group, kept = self.groups[index], self.kept[index]
                if kept < group.size:
                    unit = group.start + self.order[index][kept]
                    candidates.append((-self.log_odds[unit], index))
            open_to = {index for _, index in candidates}
            for _, index in sorted(candidates):
                group = self.groups[index]
                before = self.kept[index]
                self.kept[index] = min(before + self._step(group), group.size)
                if cost() <= budget:
                    break
                self.kept[index] = before
                open_to.discard(index)
            else:
                return
