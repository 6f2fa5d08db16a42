"""What the constraint measures: MACs, parameters or seconds, of the whole encoder or a part."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from espnet_hjprune.errors import HJPruneError
from espnet_hjprune.nn.config import EncoderConfig
from espnet_hjprune.pruning.blocks import check_uniform, head_step
from espnet_hjprune.pruning.config import LAYER_UNITS, PruningConfig
from espnet_hjprune.pruning.cost import (
    Count,
    UnitCounts,
    config_counts,
    encoder_cost,
)
from espnet_hjprune.pruning.latency import LatencyTable, read_table
from espnet_hjprune.target import PARTS, SEPARATE, Part

Kind = Literal["macs", "params", "seconds"]

KINDS: dict[str, Kind] = {
    "macs": "macs",
    "size": "params",
    SEPARATE: "params",
    "latency": "seconds",
}
PART_UNITS = {
    "cnn": ("conv",),
    "transformer": ("head", "ffn", "attention_layer", "ffn_layer", "hidden"),
}


@dataclass(frozen=True)
class Measure:
    """One constrained quantity.

    Attributes:
        name: empty for the only measure of a criterion, else the part.
        kind: ``macs``, ``params`` or ``seconds``.
        part: part of the encoder that is measured, or ``None`` for the whole.
        units: gated unit kinds that may be removed to meet the target.
        target: share to remove.
        samples: audio length for MACs.
        dense: cost of the encoder before pruning.
        table: what tells the seconds.
    """

    name: str
    kind: Kind
    part: Part | None
    units: tuple[str, ...]
    target: float
    samples: int
    dense: float
    table: LatencyTable | None = None

    def cost(self, config: EncoderConfig, counts: UnitCounts) -> Count:
        """Cost of keeping ``counts``, which may be expected ones or symbols."""
        if self.table is not None:
            return self.table.cost(counts)
        assert self.kind != "seconds"
        return encoder_cost(config, counts, self.kind, self.samples, self.part)

    def whole_cost(self, config: EncoderConfig, counts: UnitCounts) -> Count:
        """Cost of an encoder that has ``counts``: seconds go up in steps."""
        return self.cost(config, counts) if self.table is None else self.table.whole_cost(counts)

    def sparsity(self, config: EncoderConfig, counts: UnitCounts) -> Count:
        """Share of the dense cost that ``counts`` removes; they may be as :meth:`cost` has them."""
        return 1 - self.cost(config, counts) / self.dense

    def whole_sparsity(self, config: EncoderConfig, counts: UnitCounts) -> float:
        """Share of the dense cost that an encoder with ``counts`` does without."""
        return float(1 - self.whole_cost(config, counts) / self.dense)


def pruned_config(config: EncoderConfig) -> EncoderConfig:
    """The configuration as compaction writes it: weight norm fused into the weight."""
    return replace(config, positional=replace(config.positional, weight_norm=False))


def measures(config: EncoderConfig, options: PruningConfig) -> list[Measure]:
    """Measures of a criterion.

    Raises:
        HJPruneError: a target that removing every unit allowed would still miss, or a table of
            latencies that cannot be read or is of another architecture.
    """
    if options.uniform:
        check_uniform(config)
    kind = KINDS[options.criterion]
    table: LatencyTable | None = None
    if kind == "seconds":
        table = read_table(options.latency_table)
        table.check_fits(config)
    parts: tuple[Part | None, ...] = PARTS if options.criterion == SEPARATE else (None,)
    found = []
    for part in parts:
        units = tuple(unit for unit in options.units if part is None or unit in PART_UNITS[part])
        name = part or ""
        measure = Measure(name, kind, part, units, options.targets[name], options.samples, 1, table)
        measure = replace(measure, dense=measure.whole_cost(config, config_counts(config)))
        most = measure.whole_sparsity(pruned_config(config), smallest_counts(config, options))
        if measure.target > most:
            label = f"target_sparsity.{name}" if name else "target_sparsity"
            raise HJPruneError(
                f"pruning.{label} {measure.target} cannot be met: with the units "
                f"{', '.join(options.units)} at most {most:.3f} of the {kind} can be removed"
            )
        found.append(measure)
    return found


def smallest_counts(config: EncoderConfig, options: PruningConfig) -> UnitCounts:
    """Counts with every gated unit removed that the encoder, and alignment, can do without."""
    units, step = options.units, options.alignment
    counts = config_counts(config)
    if "conv" in units:
        counts.conv = [min(step, channels) for channels in counts.conv]
    for layer, inside in LAYER_UNITS.items():
        if layer in units or inside in units:
            closed = [0] * len(getattr(counts, inside))
            setattr(counts, inside, closed)
            if layer in units:
                # Without a gate of its own a layer is expected to be open, whatever is inside.
                setattr(counts, layer, closed)
    if "hidden" in units:
        counts.hidden = min(step, config.hidden_size)
        # Spread over the groups of the positional convolution, which is where they cost least.
        groups = len(config.positional.group_widths)
        counts.positional_pairs = max(counts.hidden, counts.hidden**2 // groups)
    if options.uniform and "head" in units:
        heads = min(head_step(config, options), config.heads[0])
        counts.head = [heads] * len(counts.head)
        counts.hidden = heads * config.head_dim
        counts.positional_pairs = counts.hidden**2 // len(config.positional.group_widths)
    return counts
