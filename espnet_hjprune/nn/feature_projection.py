"""The feature projection: from frames of the CNN to the width of the Transformer."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from espnet_hjprune.nn.config import EncoderConfig
from espnet_hjprune.nn.gate_values import GateValues, scale
from espnet_hjprune.nn.norms import FeatureNorm


class FeatureProjection(nn.Module):
    """Norm over the CNN's channels, linear layer, dropout.

    Args:
        config: sizes; without ``projection_norm`` there is no norm.
        dropout: probability while training.
    """

    def __init__(self, config: EncoderConfig, dropout: float) -> None:
        super().__init__()
        channels = config.conv_layers[-1].channels
        self.dropout = dropout
        self.norm = FeatureNorm(channels) if config.projection_norm else None
        self.linear = nn.Linear(channels, config.hidden_size)

    def forward(self, x: torch.Tensor, gates: GateValues) -> torch.Tensor:
        """Map frames ``(batch, time, channel)`` to ``(batch, time, hidden)``.

        The gate of the last CNN layer scales the input columns of the weight.
        """
        channel_gate = gates.conv_layer(-1)
        if self.norm is not None:
            x = self.norm(x, channel_gate)
        weight = scale(self.linear.weight, channel_gate.value if channel_gate else None, 1)
        bias: torch.Tensor = self.linear.bias
        if gates.hidden is not None:
            # Closed features must read as zero in the positional embedding.
            weight, bias = scale(weight, gates.hidden.keep, 0), scale(bias, gates.hidden.keep, 0)
        x = F.linear(x, weight, bias)
        return F.dropout(x, self.dropout, self.training)
