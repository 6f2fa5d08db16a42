"""What the constraint measures: parameters or MACs, of the whole encoder or of a part."""

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
from espnet_hjprune.target import PARTS, SEPARATE, Part

PART_UNITS = {
    "cnn": ("conv",),
    "transformer": ("head", "ffn", "attention_layer", "ffn_layer", "hidden"),
}


@dataclass(frozen=True)
class Measure:
    """One constrained quantity.

    Attributes:
        name: empty for the only measure of a criterion, else the part.
        kind: ``macs`` or ``params``.
        part: part of the encoder that is measured, or ``None`` for the whole.
        units: gated unit kinds that may be removed to meet the target.
        target: share to remove.
        samples: audio length for MACs.
        dense: cost of the encoder before pruning.
    """

    name: str
    kind: Literal["macs", "params"]
    part: Part | None
    units: tuple[str, ...]
    target: float
    samples: int
    dense: int

    def cost(self, config: EncoderConfig, counts: UnitCounts) -> Count:
        """Cost of keeping ``counts``."""
        return encoder_cost(config, counts, self.kind, self.samples, self.part)

    def sparsity(self, config: EncoderConfig, counts: UnitCounts) -> Count:
        """Share of the dense cost that ``counts`` removes."""
        return 1 - self.cost(config, counts) / self.dense


def pruned_config(config: EncoderConfig) -> EncoderConfig:
    """The configuration as compaction writes it: weight norm fused into the weight."""
    return replace(config, positional=replace(config.positional, weight_norm=False))


def measures(config: EncoderConfig, options: PruningConfig) -> list[Measure]:
    """Measures of a criterion.

    Raises:
        HJPruneError: a target that removing every unit allowed would still miss.
    """
    if options.uniform:
        check_uniform(config)
    kind: Literal["macs", "params"] = "macs" if options.criterion == "macs" else "params"
    parts: tuple[Part | None, ...] = PARTS if options.criterion == SEPARATE else (None,)
    found = []
    for part in parts:
        units = tuple(unit for unit in options.units if part is None or unit in PART_UNITS[part])
        name = part or ""
        dense = encoder_cost(config, config_counts(config), kind, options.samples, part)
        measure = Measure(name, kind, part, units, options.targets[name], options.samples, dense)
        most = measure.sparsity(pruned_config(config), smallest_counts(config, options))
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
            setattr(counts, inside, [0] * len(getattr(counts, inside)))
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
