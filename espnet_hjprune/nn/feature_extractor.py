"""The CNN front end that turns samples into frames."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from espnet_hjprune.nn.activation import gelu
from espnet_hjprune.nn.config import EncoderConfig
from espnet_hjprune.nn.export_mode import is_exporting
from espnet_hjprune.nn.frame_conv import LayerNorm, frame_conv
from espnet_hjprune.nn.gate_values import GateValues, scale
from espnet_hjprune.nn.norms import FeatureNorm, channel_norm, group_norm_per_channel
from espnet_hjprune.precision import widest

# On the CPU the first layers, whose outputs are large, are computed together in blocks of so many
# frames of the last of them. wav2vec2-base's CNN takes 330 ms for 10 s on two cores with these, 336
# with 2048 frames, 373 with 512, 376 with 4096, and 372 with two layers (medians of 13 rounds;
# differences below some percent mean nothing).
BLOCK_LAYERS = 3
BLOCK_FRAMES = 1024
# Of audio with more samples (two minutes) all layers are computed so, as the output of the first
# ones would take 1.6 MB a second.
LONG_SAMPLES = 120 * 16000
# Tensor cores read rows of so many numbers at a time.
ALIGNMENT = 16


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

    @property
    def kernel(self) -> int:
        """Input frames that one output frame reads."""
        return self.conv.kernel_size[0]

    @property
    def stride(self) -> int:
        """Input frames from one output frame to the next."""
        return self.conv.stride[0]

    def forward(self, x: torch.Tensor, index: int, gates: GateValues) -> torch.Tensor:
        """Map ``(batch, in_channel, time)`` to ``(batch, channel, fewer time)`` by a convolution.

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
        return gelu(x)

    def norm_of_frames(self, gates: GateValues, index: int, dtype: torch.dtype) -> LayerNorm | None:
        """The norm over channels in the form that products of frames of a type take."""
        if not isinstance(self.norm, FeatureNorm):
            return None
        gate = gates.conv_layer(index)
        share = gate.share_in(torch.promote_types(dtype, torch.float32)) if gate else None
        return LayerNorm(self.norm.weight, self.norm.bias, self.norm.eps, share)

    def normalised_filters(
        self, wave: torch.Tensor, lengths: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Filters of the first layer with its GroupNorm over ``(batch, samples)`` folded in.

        Every output of a channel is a product of its filter with as many samples, so mean and
        variance of the channel follow from those of the samples, without a look at the outputs.
        Double precision keeps the variance of channels in whose band there is little energy.

        Args:
            wave: samples.
            lengths: ``(batch,)`` samples that the statistics cover; ``None`` for all.

        Returns:
            Filters ``(batch, channel, kernel)`` and biases ``(batch, channel, 1)``.
        """
        assert isinstance(self.norm, nn.GroupNorm)
        windows = self.windows(wave).to(widest(wave.device))
        frames = windows.shape[1]
        if lengths is None:
            mean = windows.mean(1, keepdim=True)
            windows = windows - mean
            covariance = windows.transpose(1, 2) @ windows / frames
        else:
            valid = torch.div(lengths - self.kernel, self.stride, rounding_mode="floor") + 1
            inside = torch.arange(frames, device=wave.device) < valid.unsqueeze(1)
            share = (inside / valid.unsqueeze(1).double()).unsqueeze(-1)
            mean = (windows * share).sum(1, keepdim=True)
            windows = windows - mean
            covariance = windows.transpose(1, 2) @ (windows * share)
        filters = self.conv.weight.squeeze(1).to(windows.dtype)
        variance = ((filters @ covariance) * filters).sum(-1, keepdim=True)
        filters = filters * self.norm.weight.unsqueeze(-1) * torch.rsqrt(variance + self.norm.eps)
        bias = self.norm.bias.unsqueeze(-1) - filters @ mean.transpose(1, 2)
        if self.conv.bias is not None:
            # The norm takes it off. Distributed training objects to parameters without a gradient.
            bias = bias + (self.conv.bias - self.conv.bias).unsqueeze(-1)
        return filters.to(wave.dtype), bias.to(wave.dtype)

    def windows(self, wave: torch.Tensor) -> torch.Tensor:
        """What the first layer reads of ``(batch, samples)``: ``(batch, frame, kernel)``."""
        return wave.unfold(1, self.kernel, self.stride)

    def folded(
        self, wave: torch.Tensor, filters: tuple[torch.Tensor, torch.Tensor]
    ) -> torch.Tensor:
        """Output ``(batch, channel, time)`` of the first layer with :meth:`normalised_filters`."""
        return gelu(torch.baddbmm(filters[1], filters[0], self.windows(wave).transpose(1, 2)))


class FeatureExtractor(nn.Module):
    """Stack of :class:`ConvLayer`."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        channels = [1] + [layer.channels for layer in config.conv_layers]
        self.layers = nn.ModuleList(
            ConvLayer(channels[i], config, i) for i in range(len(config.conv_layers))
        )

    def conv_layers(self) -> list[ConvLayer]:
        """The layers from the samples up."""
        return [layer for layer in self.layers if isinstance(layer, ConvLayer)]

    def forward(
        self, wave: torch.Tensor, gates: GateValues, lengths: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Map samples ``(batch, samples)`` to frames ``(batch, time, channel)``.

        The values of the last layer's gate are left to the reader. Norms over time cover
        ``lengths`` ``(batch,)`` samples of each utterance; ``None`` for all, padding included.
        Samples in float32 are read by weights in half precision too.
        """
        if prefers_products(wave):
            return self.as_products(wave, gates, lengths)
        return self.as_convolutions(wave, gates, lengths)

    def as_convolutions(
        self, wave: torch.Tensor, gates: GateValues, lengths: torch.Tensor | None = None
    ) -> torch.Tensor:
        """What :meth:`forward` does, by convolutions, which other runtimes have."""
        done = 0
        x = wave.unsqueeze(1).to(self.conv_layers()[0].conv.weight.dtype)
        if runs_in_blocks(wave) and x.dtype == wave.dtype:
            done = len(self.layers)
            if wave.shape[1] <= LONG_SAMPLES:
                done = min(BLOCK_LAYERS, done)
            x = self.in_blocks(wave, gates, done, lengths)
        elif lengths is not None and self.norms_over_time:
            done = 1
            with torch.autocast(wave.device.type, enabled=False):
                x = self.folded(wave, lengths).to(x.dtype)
        for index, layer in enumerate(self.layers[done:], done):
            x = layer(x, index, gates)
        return x.transpose(1, 2)

    def as_products(
        self, wave: torch.Tensor, gates: GateValues, lengths: torch.Tensor | None = None
    ) -> torch.Tensor:
        """What :meth:`forward` does, by the products of :func:`frame_conv`.

        The first layer's GroupNorm is folded into its filters, in float32 at least. Forward hooks
        of the layers see nothing.
        """
        layers = self.conv_layers()
        device, dtype = wave.device.type, layers[0].conv.weight.dtype
        if torch.is_autocast_enabled(device) and dtype != torch.float64:
            dtype = torch.get_autocast_dtype(device)
        frames = wave.shape[1]
        for layer in layers:
            frames = (frames - layer.kernel) // layer.stride + 1
        with torch.autocast(device, enabled=False):
            if self.norms_over_time:
                wave = without_offset(wave, lengths)
            filters = self._first_filters(wave, lengths).to(dtype)
            x = self._all_layers(wave, filters, gates)
            x = x[:, :frames].contiguous()
            norm = layers[-1].norm
            if isinstance(norm, FeatureNorm):
                x = norm(x, gates.conv_layer(-1))
        return gelu(x)

    def _first_filters(self, wave: torch.Tensor, lengths: torch.Tensor | None) -> torch.Tensor:
        """Filters ``(batch or 1, kernel and more, channel)`` of the first layer.

        The row after those of the kernel is the bias.
        """
        first = self.conv_layers()[0]
        bias: torch.Tensor | None
        if self.norms_over_time:
            channels, bias = first.normalised_filters(wave, lengths)
        else:
            channels = first.conv.weight.transpose(0, 1)
            bias = None if first.conv.bias is None else first.conv.bias.view(1, -1, 1)
        if bias is not None:
            channels = torch.cat([channels, bias], 2)
        more = row_width(first.kernel) - channels.shape[2]
        return F.pad(channels, (0, more)).transpose(1, 2)

    def _all_layers(
        self, wave: torch.Tensor, filters: torch.Tensor, gates: GateValues
    ) -> torch.Tensor:
        """Output ``(batch, time, channel)`` of the last layer, before its norm and activation.

        Args:
            wave: ``(batch, samples)``.
            filters: as :meth:`_first_filters` made them.
            gates: of all layers.
        """
        layers = self.conv_layers()
        kernel, stride = layers[0].kernel, layers[0].stride
        whole = 1
        for layer in layers:
            whole *= layer.stride
        size = (wave.shape[1] + whole - 1) // whole * whole
        padded = F.pad(wave, (0, max(0, size - wave.shape[1] + kernel - stride)))
        windows = layers[0].windows(padded)[:, : size // stride]
        rows = torch.empty(
            *windows.shape[:2], filters.shape[1], dtype=filters.dtype, device=wave.device
        )
        rows[..., :kernel] = windows
        rows[..., kernel] = 1
        rows[..., kernel + 1 :] = 0
        x = rows @ filters
        for index, layer in enumerate(layers[1:], 1):
            below, conv = gates.conv_layer(index - 1), layer.conv
            norm = layers[index - 1].norm_of_frames(gates, index - 1, x.dtype)
            gate = below.value if below else None
            x = frame_conv(x, conv.weight, conv.bias, layer.stride, gate, norm)
        return x

    @property
    def norms_over_time(self) -> bool:
        """Whether the first layer has a GroupNorm, whose statistics cover all frames."""
        return isinstance(self.layers[0].norm, nn.GroupNorm)

    def folded(self, wave: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        """Output of the first layer with its GroupNorm folded in, as without any padding."""
        first = self.conv_layers()[0]
        wave = without_offset(wave, lengths)
        return first.folded(wave, first.normalised_filters(wave, lengths))

    def in_blocks(
        self,
        wave: torch.Tensor,
        gates: GateValues,
        count: int,
        lengths: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Output ``(batch, channel, time)`` of the first ``count`` layers, block by block.

        Forward hooks of these layers see blocks, or nothing where the norm is folded.
        """
        layers = self.conv_layers()[:count]
        frames = [wave.shape[1]]
        for layer in layers:
            frames.append((frames[-1] - layer.kernel) // layer.stride + 1)
        result = wave.new_empty(len(wave), layers[-1].conv.out_channels, frames[-1])
        size = BLOCK_FRAMES
        for layer in layers[BLOCK_LAYERS:]:
            size = max(1, size // layer.stride)
        step = max(1, size // frames[-1])
        for row in range(0, len(wave), step):
            part = slice(row, row + step)
            samples, filters = wave[part], None
            if self.norms_over_time:
                valid = lengths[part] if lengths is not None else None
                samples = without_offset(samples, valid)
                filters = layers[0].normalised_filters(samples, valid)
            for begin in range(0, frames[-1], size):
                end = min(begin + size, frames[-1])
                start, stop = begin, end
                for layer in reversed(layers):
                    start, stop = start * layer.stride, (stop - 1) * layer.stride + layer.kernel
                x = samples[:, None, start:stop]
                if filters is not None:
                    x = layers[0].folded(x[:, 0], filters)
                for index, layer in enumerate(layers):
                    if index > 0 or filters is None:
                        x = layer(x, index, gates)
                result[part, :, begin:end] = x
        return result


def without_offset(wave: torch.Tensor, lengths: torch.Tensor | None) -> torch.Tensor:
    """Samples ``(batch, samples)`` minus their mean, so that nothing cancels where it is taken off.

    Padding, which must be zero, does not count where ``lengths`` are given.
    """
    count = wave.shape[1] if lengths is None else lengths.to(wave.dtype).unsqueeze(1)
    return wave - wave.sum(1, keepdim=True) / count


def row_width(kernel: int) -> int:
    """Numbers in a row of the first layer's product: samples, a one for the bias, and zeros."""
    return -(-(kernel + 1) // ALIGNMENT) * ALIGNMENT


def prefers_products(wave: torch.Tensor) -> bool:
    """Whether matrix products are the faster form: on GPUs, and on CPUs with gradients.

    By convolutions, a forward and backward pass of wav2vec2-base's CNN in float32 takes 1.3 to 1.6
    times as long on two cores. On GPUs cuDNN changes layouts around every convolution.
    """
    if is_exporting() or wave.requires_grad:
        return False
    return wave.device.type != "cpu" or torch.is_grad_enabled()


def runs_in_blocks(wave: torch.Tensor) -> bool:
    """Whether blocks help: on the CPU, without gradients, and with sizes that are known.

    Half precision would round the folded filters.
    """
    if wave.device.type != "cpu" or torch.is_grad_enabled() or torch.is_autocast_enabled("cpu"):
        return False
    if wave.dtype not in (torch.float32, torch.float64):
        return False
    return not (is_exporting() or torch.compiler.is_compiling())
