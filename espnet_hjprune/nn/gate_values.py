"""Gate values that the encoder applies during one forward pass."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch


@dataclass
class FeatureGate:
    """Gate of one feature axis: ``value`` in [0, 1] and ``keep``, 1 where ``value`` is not 0.

    ``keep`` selects the features that norms take their statistics over; ``value`` scales what
    the consumer reads. Both have shape ``(features,)``.
    """

    value: torch.Tensor
    keep: torch.Tensor
    _share: torch.Tensor = field(init=False)

    def __post_init__(self) -> None:
        """Make once what all norms of the axis need."""
        self._share = self.keep / self.keep.sum().clamp(min=1)

    def share_in(self, dtype: torch.dtype) -> torch.Tensor:
        """Share ``(features,)`` of every feature in the statistics of norms, in this precision."""
        if self._share.dtype == dtype:
            return self._share
        keep = self.keep.to(dtype)
        return keep / keep.sum().clamp(min=1)


@dataclass
class GateValues:
    """Gates of a whole encoder; ``None`` (or a missing layer) means that nothing is gated.

    Attributes:
        conv: output channels of every CNN layer, or empty.
        head: attention heads of every Transformer layer, each ``(heads,)``, or empty.
        ffn: intermediate FFN units of every layer, each ``(units,)``, or empty.
        hidden: the Transformer width, shared by all layers.
    """

    conv: list[FeatureGate] = field(default_factory=list)
    head: list[torch.Tensor] = field(default_factory=list)
    ffn: list[torch.Tensor] = field(default_factory=list)
    hidden: FeatureGate | None = None

    def conv_layer(self, layer: int) -> FeatureGate | None:
        """Gate of the output channels of one CNN layer (negative counts from the last)."""
        return self.conv[layer] if self.conv else None

    def head_layer(self, layer: int) -> torch.Tensor | None:
        """Head gates of one Transformer layer."""
        return self.head[layer] if self.head else None

    def ffn_layer(self, layer: int) -> torch.Tensor | None:
        """FFN gates of one Transformer layer."""
        return self.ffn[layer] if self.ffn else None


NO_GATES = GateValues()


def scale(weight: torch.Tensor, gate: torch.Tensor | None, dim: int) -> torch.Tensor:
    """Multiply ``weight`` along ``dim`` by ``gate``, in the weight's own type."""
    if gate is None:
        return weight
    shape = [1] * weight.dim()
    shape[dim] = -1
    return weight * gate.to(weight.dtype).view(shape)
