"""From gate probabilities to a set of kept units whose counted cost meets the target."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch

from espnet_hjprune.pruning.blocks import Block, blocks
from espnet_hjprune.pruning.config import LAYER_UNITS
from espnet_hjprune.pruning.cost import UnitCounts, config_counts
from espnet_hjprune.pruning.gates import GateGroup, GateSet
from espnet_hjprune.pruning.hard_concrete import open_threshold
from espnet_hjprune.pruning.measures import Measure

# The sigmoid of 40 differs from 1 by less than the precision of a double.
CERTAIN_LOG_ODDS = 40.0
# Share of the dense cost by which a target may be overshot before whole layers are reconsidered.
COARSE = 0.001


class Discretiser:
    """Rounds gates to kept units.

    The procedure is this project's own. The paper only says that units whose gates are closed are
    removed; published code rounds every layer for itself and so misses the target.

    Every group keeps its most probable units, as many as expected. What rounding (and training)
    left between the counted cost and the target is closed globally: one shift of all log-odds,
    found by bisection, brings the cost just under the target, then single units are added back,
    the most probable first, as long as they fit. Groups of one block keep equally many. Where whole
    layers have gates, they are rounded in the same way, and what is inside of a closed layer goes
    with it; a layer opens again where closing it removes too much and others can make up the rest.
    """

    def __init__(self, gates: GateSet) -> None:
        self.groups: Sequence[GateGroup] = gates.groups
        self.options = gates.options
        self.config = gates.encoder_config
        threshold = open_threshold(self.options.beta, self.options.stretch)
        self.log_odds = gates.log_alpha.detach().double().cpu().numpy() - threshold
        widths = self.config.positional.group_widths
        self.positional_group = np.repeat(np.arange(len(widths)), widths)
        self.order = [self._order(group) for group in self.groups]
        self.blocks = blocks(self.groups, self.config, self.options)
        self.kept = [group.size for group in self.groups]
        # Places of the groups of whole layers by the kind of unit that is inside.
        self.layers = {
            LAYER_UNITS[group.unit]: index
            for index, group in enumerate(self.groups)
            if group.unit in LAYER_UNITS
        }

    def _order(self, group: GateGroup) -> np.ndarray:
        """Places of a group's units in the order in which they are kept."""
        log_odds = self.log_odds[group.slice]
        # Stable: the most probable unit first, ties by position.
        order = np.argsort(-log_odds, kind="stable")
        if group.unit != "hidden" or not self.options.uniform:
            return order
        # The best of every group of the positional convolution, then the second of each, ...
        rank = np.empty(group.size, dtype=int)
        for number in range(len(self.config.positional.group_widths)):
            own = order[self.positional_group[order] == number]
            rank[own] = np.arange(len(own))
        return np.lexsort((-log_odds, rank))

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
            keep[group.start + order[:count]] = not self._is_closed(group)
        return torch.from_numpy(keep)

    def _is_closed(self, group: GateGroup) -> bool:
        """Whether the units of a group are inside of a layer that is closed."""
        index = self.layers.get(group.unit)
        return index is not None and group.layer in self.order[index][self.kept[index] :]

    def counts(self) -> UnitCounts:
        """The currently kept units."""
        counts = config_counts(self.config)
        for unit, index in self.layers.items():
            for layer in self.order[index][self.kept[index] :]:
                getattr(counts, unit)[layer] = 0
        for group, order, kept in zip(self.groups, self.order, self.kept, strict=True):
            if group.unit == "hidden":
                counts.hidden = kept
                widths = np.bincount(
                    self.positional_group[order[:kept]],
                    minlength=len(self.config.positional.group_widths),
                )
                counts.positional_pairs = int((widths.astype(np.int64) ** 2).sum())
            elif group.unit not in LAYER_UNITS and not self._is_closed(group):
                getattr(counts, group.unit)[group.layer] = kept
        counts.attention_layer = [int(heads > 0) for heads in counts.head]
        counts.ffn_layer = [int(units > 0) for units in counts.ffn]
        return counts

    def _expected(self, block: Block, shift: float) -> float:
        """Expected units of a block when all log-odds rise by ``shift``."""
        expected = [
            float((0.5 * (1 + np.tanh((self.log_odds[self.groups[i].slice] + shift) / 2))).sum())
            / share
            for i, share in zip(block.groups, block.shares, strict=True)
        ]
        return sum(expected) / len(expected)

    def _round(self, block: Block, shift: float) -> int:
        """Units of a block to keep when all log-odds rise by ``shift``."""
        count = round(self._expected(block, shift) / block.step) * block.step
        return min(max(count, block.fewest), block.size)

    def _keep(self, block: Block, count: int) -> None:
        """Let the groups of a block keep what makes up ``count`` units of it."""
        for index, share in zip(block.groups, block.shares, strict=True):
            self.kept[index] = count * share

    def _meet(self, measure: Measure, budget: float) -> None:
        """Keep as much as fits into ``budget`` among the units of ``measure``."""
        members = [block for block in self.blocks if block.units <= set(measure.units)]

        def cost() -> float:
            return float(measure.whole_cost(self.config, self.counts()))

        coarse = [block for block in members if len(block.units) > 1]
        if coarse:
            # Heads of all layers with their share of the hidden size are steps of some percent.
            members = [block for block in members if block not in coarse]
            self._choose(coarse[0], members, budget, cost)
        self._shift(members, budget, cost)
        self._fill(members, budget, cost)
        layers = [block for block in members if block.units & LAYER_UNITS.keys()]
        members = [block for block in members if block not in layers]
        # Where all else is open, closed layers may be far more than the target asks for: with one
        # less, units elsewhere make up the rest.
        while budget - cost() > COARSE * measure.dense and all(map(self._is_full, members)):
            before = list(self.kept)
            if not self._reopen(layers, members, budget, cost):
                self.kept = before
                return

    def _reopen(
        self, layers: list[Block], others: list[Block], budget: float, cost: Callable[[], float]
    ) -> bool:
        """Open the most probable closed layer; tell whether the others then meet the budget."""
        closed = [block for block in layers if not self._is_full(block)]
        if not closed:
            return False
        block = max(closed, key=self._next_log_odds)
        self._keep(block, self.kept[block.groups[0]] + 1)
        self._shift(others, budget, cost)
        self._fill(others, budget, cost)
        return cost() <= budget

    def _is_full(self, block: Block) -> bool:
        """Whether no unit of a block is left to open, but for what is inside of a closed layer."""
        first = self.groups[block.groups[0]]
        return self._is_closed(first) or self.kept[block.groups[0]] == block.size * block.shares[0]

    def _choose(
        self, block: Block, others: list[Block], budget: float, cost: Callable[[], float]
    ) -> None:
        """Keep as many of a block as its gates ask for where the others meet the budget."""
        found = []
        for count in (*range(block.fewest, block.size, block.step), block.size):
            self._keep(block, count)
            shift = self._shift(others, budget, cost)
            if cost() <= budget:
                found.append((abs(self._expected(block, shift) - count), -count))
        self._keep(block, -min(found)[1] if found else block.fewest)

    def _shift(self, members: list[Block], budget: float, cost: Callable[[], float]) -> float:
        """Raise or lower the log-odds of some blocks together until they fit into the budget.

        Returns:
            The largest shift with which they do.
        """

        def apply(shift: float) -> float:
            for block in members:
                self._keep(block, self._round(block, shift))
            return cost()

        # Beyond this shift every gate is open, or closed, with certainty in double precision.
        reach = float(np.abs(self.log_odds).max(initial=0.0)) + CERTAIN_LOG_ODDS
        low, high = -reach, reach
        if apply(high) <= budget:
            return high
        # Far below what moves a single unit; 30 halvings.
        while high - low > 1e-9 * reach:
            middle = (low + high) / 2
            if apply(middle) > budget:
                high = middle
            else:
                low = middle
        apply(low)
        return low

    def _fill(self, members: list[Block], budget: float, cost: Callable[[], float]) -> None:
        """Add the most probable closed units back while the cost stays within ``budget``.

        A closed layer comes back empty, and then gets its most probable units one by one.
        """
        for block in members:
            if self._is_closed(self.groups[block.groups[0]]):
                self._keep(block, 0)
        open_to = set(members)
        while open_to:
            # What is inside of a closed layer waits for its layer.
            candidates = [
                (-self._next_log_odds(block), block.groups[0], block)
                for block in open_to
                if not self._is_full(block)
            ]
            for *_, block in sorted(candidates, key=lambda candidate: candidate[:2]):
                before = self.kept[block.groups[0]] // block.shares[0]
                self._keep(block, min(before + block.step, block.size))
                if cost() <= budget:
                    break
                self._keep(block, before)
                open_to.discard(block)
            else:
                return

    def _next_log_odds(self, block: Block) -> float:
        """Log-odds of the next units to be kept, mean over the groups of a block."""
        units = [
            self.groups[index].start + self.order[index][self.kept[index]] for index in block.groups
        ]
        return float(self.log_odds[units].mean())
