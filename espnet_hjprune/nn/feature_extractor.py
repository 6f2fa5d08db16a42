"""The CNN front end that turns samples into frames."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from espnet_hjprune.nn.config import EncoderConfig
from espnet_hjprune.nn.gating import GateValues, scale
from espnet_hjprune.nn.norms import FeatureNorm, channel_norm, group_norm_per_channel


class ConvLayer(nn.Module):
    """Convolution, optional norm, GELU."""

    def __init__(self, in_channels: int, config: EncoderConfig, index: int) -> None:
        super().__init__()
        layer = config.conv_layers[index]
        self.conv = nn.Conv1d(
            in_channels, layer.channels, layer.kernel, layer.stride, bias=config.conv_bias
        )
        nn.init.kaiming_normal_(self.conv.weight)
        self.norm: FeatureNorm | nn.GroupNorm | None = None
        if config.extractor_norm == "layer":
            self.norm = FeatureNorm(layer.channels)
        elif index == 0:
            self.norm = nn.GroupNorm(layer.channels, layer.channels)

    def forward(self, x: torch.Tensor, index: int, gates: GateValues) -> torch.Tensor:
        """Map ``(batch, in_channel, time)`` to ``(batch, channel, fewer time)``.

        The gate of the layer below scales the input channels of the weight; this layer's own
        gate only tells the norm which channels exist, its value acts in the layer above.
        """
        below = gates.conv_layer(index - 1) if index > 0 else None
        weight = scale(self.conv.weight, below.value if below else None, 1)
        x = F.conv1d(x, weight, self.conv.bias, self.conv.stride)
        if isinstance(self.norm, FeatureNorm):
            x = channel_norm(self.norm, x, gates.conv_layer(index))
        elif self.norm is not None:
            x = group_norm_per_channel(self.norm, x)
        return F.gelu(x)


class FeatureExtractor(nn.Module):
    """Stack of :class:`ConvLayer`."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        channels = [1] + [layer.channels for layer in config.conv_layers]
        self.layers = nn.ModuleList(
            ConvLayer(channels[i], config, i) for i in range(len(config.conv_layers))
        )

    def forward(self, wave: torch.Tensor, gates: GateValues) -> torch.Tensor:
        """Map samples ``(batch, samples)`` to frames ``(batch, time, channel)``.

        The values of the last layer's gate are left to the reader.
        """
        x = wave.unsqueeze(1)
        for index, layer in enumerate(self.layers):
            x = layer(x, index, gates)
        return x.transpose(1, 2)
