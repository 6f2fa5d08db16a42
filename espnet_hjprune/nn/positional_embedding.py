"""The convolutional positional embedding: grouped convolutions that encode positions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import accumulate

import torch
import torch.nn.functional as F
from torch import nn

from espnet_hjprune.nn.config import PositionalConfig
from espnet_hjprune.nn.export_mode import is_exporting
from espnet_hjprune.nn.gate_values import FeatureGate
from espnet_hjprune.nn.norms import FeatureNorm
from espnet_hjprune.nn.spectral_conv import spectral_conv

# On the CPU: shortest kernel that is worth transforms; frames for which it is, and whose spectra
# fit into memory (20 kB each); most pairs of features for every frame, and frames from which these
# do not matter to groups of different widths.
SPECTRAL_KERNEL = 64
SPECTRAL_FRAMES = (256, 20000)
PAIRS_PER_FRAME = 20
UNEVEN_FRAMES = 400


class PositionalConv(nn.Module):
    """Grouped convolution over time, trimmed to the input length.

    With weight norm (dense models) the weight is ``weight_g * weight_v / |weight_v|``, the norm
    taken per kernel position. Without it (compact models) groups may differ in width: groups of
    equal width share one convolution, so that nothing is padded and every MAC counts.
    """

    order: torch.Tensor | None
    restore: torch.Tensor | None

    def __init__(self, config: PositionalConfig) -> None:
        super().__init__()
        self.kernel = config.kernel
        self.widths = list(config.group_widths)
        self.weight_norm = config.weight_norm
        hidden = sum(self.widths)
        self.bias = nn.Parameter(torch.zeros(hidden))
        std = math.sqrt(4.0 / (self.kernel * hidden))
        distinct = sorted({width for width in self.widths if width > 0})
        if self.weight_norm:
            if len(distinct) != 1 or distinct[0] * len(self.widths) != hidden:
                raise ValueError("weight norm needs groups of equal width")
            direction = torch.randn(hidden, distinct[0], self.kernel) * std
            self.weight_v = nn.Parameter(direction)
            self.weight_g = nn.Parameter(direction.norm(dim=(0, 1), keepdim=True))
        else:
            self.distinct = distinct
            self.weights = nn.ParameterList(
                torch.randn(width * self.widths.count(width), width, self.kernel) * std
                for width in distinct
            )
            order = self.channel_order()
            uneven = len(distinct) > 1
            self.register_buffer("order", order if uneven else None, persistent=False)
            self.register_buffer("restore", order.argsort() if uneven else None, persistent=False)

    def channel_order(self) -> torch.Tensor:
        """Channel numbers with the groups sorted by width, as the convolutions take them."""
        starts = list(accumulate(self.widths, initial=0))
        order: list[int] = []
        for width in self.distinct:
            for group, group_width in enumerate(self.widths):
                if group_width == width:
                    order.extend(range(starts[group], starts[group] + width))
        return torch.tensor(order)

    def fused_weight(self) -> torch.Tensor:
        """Weight ``(channel, channel per group, kernel)`` with the weight norm multiplied in."""
        return torch._weight_norm(self.weight_v, self.weight_g, 2)

    def width_weights(self) -> list[torch.Tensor]:
        """Weights of all groups of a width, for each width in ascending order."""
        # One by one, as `torch.compile` cannot iterate over a list of parameters.
        return [self.weights[number] for number in range(len(self.distinct))]

    def group_weights(self) -> list[torch.Tensor]:
        """Weights of the groups in their order, each ``(width, width, kernel)``."""
        if self.weight_norm:
            return list(self.fused_weight().split(self.widths))
        blocks = {
            width: iter(weight.split(width))
            for width, weight in zip(self.distinct, self.width_weights(), strict=True)
        }
        return [
            next(blocks[width]) if width else self.bias.new_zeros(0, 0, self.kernel)
            for width in self.widths
        ]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map ``(batch, time, hidden)`` to the same shape."""
        spectra = prefers_spectra(x, self.kernel, self.widths)
        return self._by_spectra(x) if spectra else self._by_convolution(x)

    def _by_spectra(self, x: torch.Tensor) -> torch.Tensor:
        padding = self.kernel // 2
        if self.weight_norm:
            y = spectral_conv(x, [self.fused_weight()], self.kernel, padding)
        else:
            if self.order is not None:
                x = x.index_select(2, self.order)
            y = spectral_conv(x, self.width_weights(), self.kernel, padding)
            if self.restore is not None:
                y = y.index_select(2, self.restore)
        return y + self.bias.to(y.dtype)

    def _by_convolution(self, x: torch.Tensor) -> torch.Tensor:
        x = x.transpose(1, 2)
        frames = x.shape[2]
        padding = self.kernel // 2
        if self.weight_norm:
            y = F.conv1d(
                x, self.fused_weight(), self.bias, padding=padding, groups=len(self.widths)
            )
        else:
            if self.order is not None:
                x = x.index_select(1, self.order)
            parts = []
            start = 0
            for width, weight in zip(self.distinct, self.width_weights(), strict=True):
                stop = start + weight.shape[0]
                groups = weight.shape[0] // width
                parts.append(F.conv1d(x[:, start:stop], weight, padding=padding, groups=groups))
                start = stop
            y = parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)
            if self.restore is not None:
                y = y.index_select(1, self.restore)
            y = y + self.bias.to(y.dtype).unsqueeze(1)
        return y[:, :, :frames].transpose(1, 2)


def prefers_spectra(x: torch.Tensor, kernel: int, widths: Sequence[int]) -> bool:
    """Whether a convolution is faster by spectra, as measured.

    For 16 x 14.5 s and wav2vec2-base's convolution, forward and backward pass take 2 ms on an H200
    in bfloat16 and in float32 alike; cuDNN's convolution takes 18 and 14 ms.

    On the CPU, without gradients, it depends. For one utterance of 10 s on one thread 16 groups of
    48 features take 1.7 times as long as torch's convolution, 16 of 24 features 0.4 times as long,
    and those that pruning leaves, of all widths, 0.5 to 0.8 times; some narrow ones make torch's
    convolution 40 times slower. For 8 utterances at once all are faster by spectra.

    Args:
        x: ``(batch, time, channel)``.
        kernel: frames.
        widths: features of every group.
    """
    if x.device.type == "cuda":
        return True
    if x.device.type != "cpu" or x.dtype != torch.float32 or torch.is_grad_enabled():
        return False
    if is_exporting() or torch.compiler.is_compiling():
        return False
    frames = x.shape[0] * x.shape[1]
    if kernel < SPECTRAL_KERNEL or not SPECTRAL_FRAMES[0] <= frames <= SPECTRAL_FRAMES[1]:
        return False
    if sum(width * width for width in widths) <= PAIRS_PER_FRAME * frames:
        return True
    # Torch's convolution takes one call for each width.
    return len(set(widths) - {0}) > 1 and frames >= UNEVEN_FRAMES


class PositionalConvEmbedding(nn.Module):
    """What is added to the projected frames: convolution and GELU, once or several times.

    When there are several convolutions (data2vec), each is followed by a norm without affine. It
    makes closed features zero, so that the next convolution reads nothing of them.
    """

    def __init__(self, config: PositionalConfig) -> None:
        super().__init__()
        self.convs = nn.ModuleList(PositionalConv(config) for _ in range(config.depth))
        width = sum(config.group_widths)
        self.norm = FeatureNorm(width, elementwise_affine=False) if config.depth > 1 else None

    def forward(
        self,
        x: torch.Tensor,
        gate: FeatureGate | None = None,
        padding: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Map ``(batch, time, hidden)`` to the same shape.

        ``padding`` ``(batch, time, 1)`` marks frames that no convolution may read.
        """
        for index, conv in enumerate(self.convs):
            if index > 0 and padding is not None:
                x = x.masked_fill(padding, 0.0)
            x = conv(x)
            if self.norm is not None:
                x = self.norm(x, gate)
            x = F.gelu(x)
        return x
