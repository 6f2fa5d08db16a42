"""All gates of an encoder in one flat tensor."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from espnet_hjprune.errors import HJPruneError
from espnet_hjprune.nn.config import EncoderConfig
from espnet_hjprune.nn.gate_values import FeatureGate, GateValues
from espnet_hjprune.precision import widest
from espnet_hjprune.pruning import hard_concrete
from espnet_hjprune.pruning.config import LAYER_UNITS, PruningConfig
from espnet_hjprune.pruning.cost import config_counts
from espnet_hjprune.pruning.quadratic import counts_from_flat, flat_counts
from espnet_hjprune.pruning.resident import Resident
from espnet_hjprune.pruning.segments import Segments

# Spread of the initial gates, which makes the order of equal gates random rather than by index.
INITIAL_SPREAD = 0.01


@dataclass(frozen=True)
class GateGroup:
    """Gates of one layer's units, ``[start, start + size)`` of the flat tensor.

    Those of the hidden size are one group, and so are those of whole layers; ``layer`` is 0 then.
    """

    unit: str
    layer: int
    start: int
    size: int

    @property
    def slice(self) -> slice:
        """Where the group stands in the flat tensor."""
        return slice(self.start, self.start + self.size)

    @property
    def minimum(self) -> int:
        """Fewest units that the encoder can run with."""
        return 1 if self.unit in ("conv", "hidden") else 0


def gate_groups(config: EncoderConfig, units: list[str]) -> list[GateGroup]:
    """Lay the gates of the chosen unit kinds out in one flat tensor."""
    counts = config_counts(config)
    sizes = {
        "conv": list(counts.conv),
        "head": list(counts.head),
        "ffn": list(counts.ffn),
        "hidden": [counts.hidden],
    }
    sizes |= {unit: [len(sizes[inside])] for unit, inside in LAYER_UNITS.items()}
    groups: list[GateGroup] = []
    start = 0
    for unit in units:
        for layer, size in enumerate(sizes[unit]):
            groups.append(GateGroup(unit, layer, start, size))
            start += size
    return groups


class GateSet(nn.Module):
    """Hard-concrete gates on the units of an encoder.

    ``log_alpha`` of shape ``(all gates,)`` is the only parameter; every value is derived from it
    on demand, so that loading or averaging checkpoints leaves nothing stale. Where a whole layer
    has a gate, what is inside has the product of its own gate and the layer's: it is open if both
    are.

    Raises:
        HJPruneError: gates would start beyond the limit of ``log_alpha``.
    """

    def __init__(self, config: EncoderConfig, options: PruningConfig) -> None:
        super().__init__()
        self.encoder_config = config
        self.options = options
        self.groups = gate_groups(config, options.units)
        self.log_alpha = nn.Parameter(torch.empty(sum(group.size for group in self.groups)))
        self._segments = Segments([group.size for group in self.groups])
        self._positional = Segments(config.positional.group_widths)
        dense = config_counts(config)
        self._layers = {LAYER_UNITS[g.unit]: g for g in self.groups if g.unit in LAYER_UNITS}
        self._owners = Resident(self._find_owners())
        # Units without gates of their own in layers that have one.
        self._lone = {
            unit: list(getattr(dense, unit)) for unit in self._layers if unit not in options.units
        }
        # Where in the vector of all counts those of the gated units stand.
        flat = flat_counts(dense)
        names = counts_from_flat(config, range(len(flat)))
        counted = [n for n, group in enumerate(self.groups) if group.unit not in LAYER_UNITS]
        self._counted = Resident(torch.tensor(counted, dtype=torch.long))
        places = [
            names.hidden if group.unit == "hidden" else getattr(names, group.unit)[group.layer]
            for group in map(self.groups.__getitem__, counted)
        ]
        places += [place for unit in self._lone for place in getattr(names, unit)]
        places += [place for group in self._layers.values() for place in getattr(names, group.unit)]
        places += [names.positional_pairs] if "hidden" in options.units else []
        self._places = Resident(torch.tensor(places, dtype=torch.long))
        self._counts = Resident(torch.tensor(flat, dtype=torch.float64))
        self.reset()

    def _find_owners(self) -> torch.Tensor:
        """For every gate the place of its layer's, or the one behind the last where it has none."""
        owners = torch.full([len(self.log_alpha)], len(self.log_alpha))
        for group in self.groups:
            if group.unit in self._layers:
                owners[group.slice] = self._layers[group.unit].start + group.layer
        return owners

    def _within_layers(self, flat: torch.Tensor) -> torch.Tensor:
        """Values or probabilities ``(all gates,)``, times those of their whole layers."""
        if not self._layers:
            return flat
        return flat * torch.cat([flat, flat.new_ones(1)])[self._owners.on(flat.device)]

    @torch.no_grad()
    def reset(self) -> None:
        """Open every gate with the initial probability of its kind."""
        for group in self.groups:
            self.log_alpha[group.slice].normal_(self._start(group.unit), INITIAL_SPREAD)
        self.limit()

    def _start(self, unit: str) -> float:
        """``log_alpha`` at which the gates of a kind of unit start."""
        options = self.options
        keep, limit = options.keep_at_start[unit], options.log_alpha_limit
        start = hard_concrete.log_alpha_for(keep, options.beta, options.stretch)
        if limit and abs(start) > limit:
            raise HJPruneError(
                f"pruning.log_alpha_limit is {limit}, but gates of {unit} that are open with a "
                f"probability of {keep} start at {start:.2f}; raise it, or lower "
                f"pruning.initial_keep.{unit}"
            )
        return start

    @torch.no_grad()
    def limit(self) -> None:
        """Hold ``log_alpha`` within its limit, if there is one."""
        limit = self.options.log_alpha_limit
        if limit:
            self.log_alpha.clamp_(-limit, limit)

    def keep_probability(self, lower: float = 0.0) -> torch.Tensor:
        """Probability of being open, ``(all gates,)``, in float32.

        Args:
            lower: by how much ``log_alpha`` is taken to be lower than it is.
        """
        options = self.options
        log_alpha = self.log_alpha.float() - lower
        if options.log_alpha_limit:
            log_alpha = log_alpha.clamp(min=-options.log_alpha_limit)
        return hard_concrete.keep_probability(log_alpha, options.beta, options.stretch)

    def sample(self, generator: torch.Generator | None = None) -> GateValues:
        """Draw all gates for one training step, with noise from ``generator`` or torch's own."""
        options = self.options
        log_alpha = self.log_alpha.float()
        return self.values(
            hard_concrete.sample(log_alpha, options.beta, options.stretch, generator)
        )

    def evaluation(self, keep: torch.Tensor) -> GateValues:
        """Gates of a compact model: expected values of the kept units, 0 elsewhere.

        Args:
            keep: boolean ``(all gates,)``.
        """
        options = self.options
        value = hard_concrete.mean(self.log_alpha.detach().float(), options.beta, options.stretch)
        return self.values(torch.where(keep.to(value.device), value, 0.0))

    def values(self, flat: torch.Tensor) -> GateValues:
        """Hand the flat tensor ``(all gates,)`` out to the layers."""
        flat = self._within_layers(flat)
        keep = (flat.detach() != 0).to(flat.dtype)
        gates = GateValues()
        parts = flat.split([group.size for group in self.groups])
        for group, value in zip(self.groups, parts, strict=True):
            if group.unit == "conv":
                gates.conv.append(FeatureGate(value, keep[group.slice]))
            elif group.unit == "hidden":
                gates.hidden = FeatureGate(value, keep[group.slice])
            elif group.unit not in LAYER_UNITS:
                getattr(gates, group.unit).append(value)
            elif LAYER_UNITS[group.unit] in self._lone:
                unit = LAYER_UNITS[group.unit]
                sizes = zip(value.unbind(), self._lone[unit], strict=True)
                setattr(gates, unit, [layer.expand(size) for layer, size in sizes])
        return gates

    def expected_counts(self, lower: float = 0.0) -> torch.Tensor:
        """Expected kept units in the order of ``flat_counts``, ``(counts,)``, differentiable.

        Gates are independent of one another, so those of a layer and of what is inside multiply.
        Within a group of the positional conv inputs and outputs share their gates, so the expected
        number of pairs is ``E[n]^2 + Var[n]``.

        Args:
            lower: by how much ``log_alpha`` is taken to be lower than it is.
        """
        device = self.log_alpha.device
        keep = self._within_layers(self.keep_probability(lower).to(widest(device)))
        expected = self._segments.sums(keep)
        if self._layers:
            layers = {unit: keep[group.slice] for unit, group in self._layers.items()}
            inside = [layers[unit] * keep.new_tensor(sizes) for unit, sizes in self._lone.items()]
            expected = torch.cat([expected[self._counted.on(device)], *inside, *layers.values()])
        if "hidden" in self.options.units:
            open_ = keep[self.groups[-1].slice]
            variance = (open_ * (1 - open_)).sum()
            pairs = self._positional.sums(open_).square().sum() + variance
            expected = torch.cat([expected, pairs.unsqueeze(0)])
        return self._counts.on(device).index_copy(0, self._places.on(device), expected)
