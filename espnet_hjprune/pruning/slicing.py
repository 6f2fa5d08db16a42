"""Remove closed units: a smaller encoder that computes the same as the gated one."""

from __future__ import annotations

import copy
from dataclasses import replace

import torch

from espnet_hjprune.nn.config import (
    ConvLayerConfig,
    EncoderConfig,
    PositionalConfig,
    RelativeBiasConfig,
)
from espnet_hjprune.nn.encoder import SpeechEncoder
from espnet_hjprune.nn.gate_values import GateValues, scale
from espnet_hjprune.nn.positional_embedding import PositionalConv


def _open(value: torch.Tensor | None, size: int) -> torch.Tensor:
    """Indices of the units that stay."""
    return torch.arange(size) if value is None else value.detach().cpu().nonzero().flatten()


class _Slicer:
    """Kept indices and gate values of every axis of an encoder."""

    def __init__(self, config: EncoderConfig, gates: GateValues) -> None:
        self.config = config
        self.gates = gates
        self.hidden = _open(gates.hidden.value if gates.hidden else None, config.hidden_size)
        self.conv = [
            _open(gates.conv[i].value if gates.conv else None, layer.channels)
            for i, layer in enumerate(config.conv_layers)
        ]
        self.heads = [_open(gates.head_layer(i), heads) for i, heads in enumerate(config.heads)]
        self.ffn = [_open(gates.ffn_layer(i), size) for i, size in enumerate(config.ffn_sizes)]

    def head_features(self, layer: int) -> torch.Tensor:
        """Features of the kept heads, as they stand within one of query, key or value."""
        width = self.config.head_dim
        return (self.heads[layer].unsqueeze(1) * width + torch.arange(width)).flatten()

    def group_channels(self) -> list[torch.Tensor]:
        """Kept channels within every group of the positional conv, counted from its start."""
        channels = []
        start = 0
        for width in self.config.positional.group_widths:
            inside = (self.hidden >= start) & (self.hidden < start + width)
            channels.append(self.hidden[inside] - start)
            start += width
        return channels

    def compact_relative(self) -> RelativeBiasConfig | None:
        """The position bias of the kept heads."""
        relative = self.config.relative
        if relative is None:
            return None
        columns = []
        for layer, kept in enumerate(self.heads):
            before = relative.layer_columns(layer, self.config.heads[layer])
            columns.append([before[head] for head in kept.tolist()])
        return replace(relative, columns=columns)

    def compact_features(self) -> list[int] | None:
        """Place of every kept hidden feature in the dense model."""
        if len(self.hidden) == self.config.hidden_size:
            return self.config.hidden_features
        before = self.config.dense_features
        return [before[i] for i in self.hidden.tolist()]

    def output_positions(self, scatter: bool) -> list[int] | None:
        """Where the kept hidden features stand in what readers see; ``None`` without scattering."""
        before = self.config.output_positions
        if before is not None:
            return [before[i] for i in self.hidden.tolist()]
        if scatter and len(self.hidden) < self.config.hidden_size:
            return self.hidden.tolist()
        return None

    def compact_config(self, scatter: bool) -> EncoderConfig:
        """Architecture of the compact encoder."""
        config = self.config
        positions = self.output_positions(scatter)
        return replace(
            config,
            conv_layers=[
                ConvLayerConfig(len(kept), layer.kernel, layer.stride)
                for kept, layer in zip(self.conv, config.conv_layers, strict=True)
            ],
            hidden_size=len(self.hidden),
            heads=[len(kept) for kept in self.heads],
            ffn_sizes=[len(kept) for kept in self.ffn],
            positional=PositionalConfig(
                config.positional.kernel,
                [len(kept) for kept in self.group_channels()],
                weight_norm=False,
                depth=config.positional.depth,
            ),
            relative=self.compact_relative(),
            hidden_features=self.compact_features(),
            output_width=None if positions is None else config.output_size,
            output_positions=positions,
        )


def compact_encoder(
    encoder: SpeechEncoder, gates: GateValues, scatter: bool = False
) -> tuple[SpeechEncoder, list[int]]:
    """Slice every weight to the open units and fold gate values between 0 and 1.

    A value is folded where the gated encoder applies it: into the input columns of the layer
    that reads the unit, or, for the hidden size, into the affine of the norms.

    Args:
        encoder: the encoder that ``gates`` belong to; it is not changed.
        gates: deterministic gates, zero for units to remove.
        scatter: let the compact encoder put its features back to their places among zeros, for
            readers that need the full width.

    Returns:
        The compact encoder in evaluation mode, and the hidden features of ``encoder`` that it
        keeps. Its output has only these, unless it scatters them, as it also does where
        ``encoder`` does so already.
    """
    slicer = _Slicer(encoder.config, gates)
    compact = SpeechEncoder(slicer.compact_config(scatter), masking=copy.copy(encoder.masking))
    state = {name: tensor.detach().float().cpu() for name, tensor in encoder.state_dict().items()}
    hidden = slicer.hidden
    hidden_value = gates.hidden.value.detach().cpu() if gates.hidden else None
    new: dict[str, torch.Tensor] = {}

    def norm(name: str, index: torch.Tensor, value: torch.Tensor | None = None) -> None:
        for part in ("weight", "bias"):
            new[f"{name}.{part}"] = scale(state[f"{name}.{part}"], value, 0)[index]

    def rows_and_columns(
        name: str,
        rows: torch.Tensor,
        columns: torch.Tensor,
        column_value: torch.Tensor | None = None,
    ) -> None:
        if column_value is not None:
            column_value = column_value.detach().cpu()
        new[f"{name}.weight"] = scale(state[f"{name}.weight"], column_value, 1)[rows][:, columns]
        if f"{name}.bias" in state:
            new[f"{name}.bias"] = state[f"{name}.bias"][rows]

    below, below_value = torch.arange(1), None
    for index, kept in enumerate(slicer.conv):
        name = f"feature_extractor.layers.{index}"
        rows_and_columns(f"{name}.conv", kept, below, below_value)
        if f"{name}.norm.weight" in state:
            norm(f"{name}.norm", kept)
        gate = gates.conv_layer(index)
        below, below_value = kept, gate.value if gate else None
    if "feature_projection.norm.weight" in state:
        norm("feature_projection.norm", below)
    rows_and_columns("feature_projection.linear", hidden, below, below_value)
    new["mask_embedding"] = state["mask_embedding"][hidden]
    new |= _positional(encoder, slicer, state)
    if "transformer.relative.table" in state:
        new["transformer.relative.table"] = state["transformer.relative.table"]
    norm("transformer.norm", hidden, hidden_value)
    for index in range(len(encoder.config.heads)):
        name = f"transformer.layers.{index}"
        features = slicer.head_features(index)
        total = encoder.config.heads[index] * encoder.config.head_dim
        qkv = torch.cat([features + offset * total for offset in range(3)])
        rows_and_columns(f"{name}.attention.qkv", qkv, hidden)
        head_value = gates.head_layer(index)
        if head_value is not None:
            head_value = head_value.repeat_interleave(encoder.config.head_dim)
        rows_and_columns(f"{name}.attention.out", hidden, features, head_value)
        bias_gate = f"{name}.attention.bias_gate"
        if f"{bias_gate}.scale" in state:
            for part in ("proj.weight", "proj.bias"):
                new[f"{bias_gate}.{part}"] = state[f"{bias_gate}.{part}"]
            new[f"{bias_gate}.scale"] = state[f"{bias_gate}.scale"][slicer.heads[index]]
        rows_and_columns(f"{name}.ffn.fc1", slicer.ffn[index], hidden)
        rows_and_columns(f"{name}.ffn.fc2", hidden, slicer.ffn[index], gates.ffn_layer(index))
        norm(f"{name}.attention_norm", hidden, hidden_value)
        norm(f"{name}.ffn_norm", hidden, hidden_value)
    compact.load_state_dict(new)
    return compact.eval(), hidden.tolist()


def _positional(
    encoder: SpeechEncoder, slicer: _Slicer, state: dict[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    """Slice the positional convs group by group; groups of equal width are stored together."""
    new: dict[str, torch.Tensor] = {}
    for number, conv in enumerate(encoder.positional_embedding.convs):
        assert isinstance(conv, PositionalConv)
        name = f"positional_embedding.convs.{number}"
        weights = [weight.detach().float().cpu() for weight in conv.group_weights()]
        sliced = [
            weight[kept][:, kept]
            for weight, kept in zip(weights, slicer.group_channels(), strict=True)
        ]
        new[f"{name}.bias"] = state[f"{name}.bias"][slicer.hidden]
        for place, width in enumerate(sorted({len(weight) for weight in sliced if len(weight)})):
            same = [weight for weight in sliced if len(weight) == width]
            new[f"{name}.weights.{place}"] = torch.cat(same)
    return new
