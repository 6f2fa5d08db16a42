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
from espnet_hjprune.pruning.config import PruningConfig
from espnet_hjprune.pruning.cost import config_counts
from espnet_hjprune.pruning.quadratic import counts_from_flat, flat_counts
from espnet_hjprune.pruning.resident import Resident
from espnet_hjprune.pruning.segments import Segments

# Spread of the initial gates, which makes the order of equal gates random rather than by index.
INITIAL_SPREAD = 0.01


@dataclass(frozen=True)
class GateGroup:
    """Gates of one layer's units, ``[start, start + size)`` of the flat tensor."""

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
    on demand, so that loading or averaging checkpoints leaves nothing stale.

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
        # Where in the vector of all counts those of the gated units stand.
        flat = flat_counts(config_counts(config))
        names = counts_from_flat(config, range(len(flat)))
        places = [
            names.hidden if group.unit == "hidden" else getattr(names, group.unit)[group.layer]
            for group in self.groups
        ]
        places += [names.positional_pairs] if "hidden" in options.units else []
        self._places = Resident(torch.tensor(places, dtype=torch.long))
        self._counts = Resident(torch.tensor(flat, dtype=torch.float64))
        self.reset()

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
        keep = (flat.detach() != 0).to(flat.dtype)
        gates = GateValues()
        parts = flat.split([group.size for group in self.groups])
        for group, value in zip(self.groups, parts, strict=True):
            if group.unit == "conv":
                gates.conv.append(FeatureGate(value, keep[group.slice]))
            elif group.unit == "head":
                gates.head.append(value)
            elif group.unit == "ffn":
                gates.ffn.append(value)
            else:
                gates.hidden = FeatureGate(value, keep[group.slice])
        return gates

    def expected_counts(self, lower: float = 0.0) -> torch.Tensor:
        """Expected kept units in the order of ``flat_counts``, ``(counts,)``, differentiable.

        Gates are independent of one another. Within a group of the positional conv inputs and
        outputs share their gates, so the expected number of pairs is ``E[n]^2 + Var[n]``.

        Args:
            lower: by how much ``log_alpha`` is taken to be lower than it is.
        """
        device = self.log_alpha.device
        keep = self.keep_probability(lower).to(widest(device))
        expected = self._segments.sums(keep)
        if "hidden" in self.options.units:
            open_ = keep[self.groups[-1].slice]
            variance = (open_ * (1 - open_)).sum()
            pairs = self._positional.sums(open_).square().sum() + variance
            expected = torch.cat([expected, pairs.unsqueeze(0)])
        return self._counts.on(device).index_copy(0, self._places.on(device), expected)
