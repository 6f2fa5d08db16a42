"""Transformer layers with per-layer head counts and FFN sizes."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from espnet_hjprune.nn.config import DropoutConfig, EncoderConfig
from espnet_hjprune.nn.export_mode import has_plain_attention, is_exporting
from espnet_hjprune.nn.gate_values import FeatureGate, GateValues
from espnet_hjprune.nn.gated_ops import gated_linear
from espnet_hjprune.nn.norms import FeatureNorm
from espnet_hjprune.nn.relative import BiasGate, RelativeBias


def linear(in_features: int, out_features: int) -> nn.Linear:
    """Make a linear layer that may have no input or no output features."""
    if in_features and out_features:
        return nn.Linear(in_features, out_features)
    # torch warns where it has nothing to initialise, so the weight is made here. Empty parameters
    # take no part in the loss, which distributed training would object to.
    layer = nn.Linear(1, 1)
    layer.in_features, layer.out_features = in_features, out_features
    layer.weight = nn.Parameter(torch.empty(out_features, in_features), requires_grad=False)
    layer.bias = nn.Parameter(torch.zeros(out_features), requires_grad=out_features > 0)
    return layer


class SelfAttention(nn.Module):
    """Multi-head self-attention (paper Eq. 7); query, key and value share one projection."""

    columns: torch.Tensor | None

    def __init__(self, config: EncoderConfig, index: int, dropout: float) -> None:
        super().__init__()
        hidden = config.hidden_size
        self.heads = heads = config.heads[index]
        self.head_dim = config.head_dim
        self.dropout = dropout
        self.qkv = linear(hidden, 3 * heads * self.head_dim)
        self.out = linear(heads * self.head_dim, hidden)
        self.bias_gate: BiasGate | None = None
        columns: torch.Tensor | None = None
        if config.relative is not None:
            used = config.relative.layer_columns(index, heads)
            if used != list(range(config.relative.heads)):
                columns = torch.tensor(used, dtype=torch.long)
            if config.relative.gated:
                self.bias_gate = BiasGate(config.relative, used, config.dense_features)
        self.register_buffer("columns", columns, persistent=False)

    def attention_mask(
        self, x: torch.Tensor, mask: torch.Tensor | None, bias: torch.Tensor | None
    ) -> torch.Tensor | None:
        """Join padding mask and position bias to what is added to the attention scores."""
        if bias is None:
            return mask
        if self.columns is not None:
            bias = bias.index_select(0, self.columns)
        bias = bias.to(x.dtype)
        bias = self.bias_gate(x) * bias if self.bias_gate is not None else bias.unsqueeze(0)
        return bias if mask is None else bias.masked_fill(~mask, float("-inf"))

    def forward(
        self,
        x: torch.Tensor,
        mask: torch.Tensor | None,
        gate: torch.Tensor | None,
        bias: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Attend within ``(batch, time, hidden)``.

        Args:
            x: input features.
            mask: ``(batch, 1, 1, time)``, true where a frame may be attended to.
            gate: ``(heads,)``; scales the columns of the output projection.
            bias: relative position bias ``(dense heads, time, time)``.
        """
        batch, time, _ = x.shape
        if self.heads == 0:
            return self.out.bias.to(x.dtype).expand(batch, time, -1)
        qkv = self.qkv(x).view(batch, time, 3, self.heads, self.head_dim)
        query, key, value = qkv.permute(2, 0, 3, 1, 4)
        added = self.attention_mask(x, mask, bias)
        if added is not None and added.is_floating_point():
            added = added.to(query.dtype)
        if has_plain_attention():
            context = attend(query, key, value, added)
        else:
            context = F.scaled_dot_product_attention(
                query, key, value, added, self.dropout if self.training else 0.0
            )
        context = context.transpose(1, 2)
        if is_exporting():
            # Where the graph runs, the attention may lay out its result otherwise than here.
            context = context.clone(memory_format=torch.contiguous_format)
        context = context.reshape(batch, time, self.heads * self.head_dim)
        return gated_linear(context, self.out.weight, self.out.bias, gate)


def attend(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, added: torch.Tensor | None
) -> torch.Tensor:
    """Scaled dot-product attention, step by step; every query may attend to some key.

    Args:
        query: ``(batch, heads, time, head_dim)``.
        key: the same.
        value: the same.
        added: what is added to the scores, or true where a key may be attended to.
    """
    scores = (query * query.shape[-1] ** -0.5) @ key.transpose(-1, -2)
    if added is not None and added.dtype == torch.bool:
        added = torch.zeros_like(added, dtype=scores.dtype).masked_fill(~added, float("-inf"))
    if added is not None:
        scores = scores + added
    context: torch.Tensor = scores.softmax(-1) @ value
    return context


class FeedForward(nn.Module):
    """Position-wise feed-forward network (paper Eq. 8)."""

    def __init__(self, hidden: int, size: int, activation: str, dropout: float) -> None:
        super().__init__()
        self.size = size
        self.activation = F.relu if activation == "relu" else F.gelu
        self.dropout = dropout
        self.fc1 = linear(hidden, size)
        self.fc2 = linear(size, hidden)

    def forward(self, x: torch.Tensor, gate: torch.Tensor | None) -> torch.Tensor:
        """Map ``(batch, time, hidden)`` to the same shape; ``gate`` scales columns of ``fc2``."""
        if self.size == 0:
            return self.fc2.bias.to(x.dtype).expand(*x.shape[:-1], -1)
        x = self.activation(self.fc1(x))
        x = F.dropout(x, self.dropout, self.training)
        return gated_linear(x, self.fc2.weight, self.fc2.bias, gate)


class TransformerLayer(nn.Module):
    """Self-attention and FFN with residual connections, pre- or post-norm.

    The gate of the hidden size acts in the norms: on their statistics and, for what they hand
    on, through their affine. Branches write to closed features, which no norm reads.
    """

    def __init__(self, config: EncoderConfig, index: int, dropout: DropoutConfig) -> None:
        super().__init__()
        hidden = config.hidden_size
        self.norm_first = config.norm_first
        self.dropout = dropout.hidden
        self.attention = SelfAttention(config, index, dropout.attention)
        self.attention_norm = FeatureNorm(hidden)
        self.ffn = FeedForward(
            hidden, config.ffn_sizes[index], config.activation, dropout.activation
        )
        self.ffn_norm = FeatureNorm(hidden)
        if config.norm_first:
            # The norm of an empty branch is not used, which distributed training would object to.
            self.attention_norm.requires_grad_(self.attention.heads > 0)
            self.ffn_norm.requires_grad_(self.ffn.size > 0)

    def forward(
        self,
        x: torch.Tensor,
        mask: torch.Tensor | None,
        head_gate: torch.Tensor | None,
        ffn_gate: torch.Tensor | None,
        hidden_gate: FeatureGate | None,
        bias: torch.Tensor | None,
    ) -> torch.Tensor:
        """Map ``(batch, time, hidden)`` to the same shape."""
        if self.norm_first:
            y = self.attention(self.attention_norm(x, hidden_gate, True), mask, head_gate, bias)
            x = x + F.dropout(y, self.dropout, self.training)
            y = self.ffn(self.ffn_norm(x, hidden_gate, True), ffn_gate)
            return x + F.dropout(y, self.dropout, self.training)
        y = self.attention(x, mask, head_gate, bias)
        x = self.attention_norm(x + F.dropout(y, self.dropout, self.training), hidden_gate, True)
        y = self.ffn(x, ffn_gate)
        x = x + F.dropout(y, self.dropout, self.training)
        output: torch.Tensor = self.ffn_norm(x, hidden_gate, True)
        return output


class Transformer(nn.Module):
    """The stack of Transformer layers with the norm before or after it."""

    def __init__(self, config: EncoderConfig, dropout: DropoutConfig) -> None:
        super().__init__()
        self.norm_first = config.norm_first
        self.dropout = dropout.hidden
        self.norm = FeatureNorm(config.hidden_size)
        # Outside of layer 0, which may lose all its heads, as in the published models it stands in.
        self.relative = RelativeBias(config.relative) if config.relative is not None else None
        if self.relative is not None:
            self.relative.requires_grad_(any(config.heads))
        self.layers = nn.ModuleList(
            TransformerLayer(config, index, dropout) for index in range(len(config.heads))
        )

    def transformer_layers(self) -> list[TransformerLayer]:
        """The layers from the input up."""
        return [layer for layer in self.layers if isinstance(layer, TransformerLayer)]

    def freeze_above(self, state: int) -> None:
        """Freeze the layers and norms that state number ``state`` does not depend on."""
        for layer in self.layers[state:]:
            layer.requires_grad_(False)
        if self.norm_first and state < len(self.layers):
            self.norm.requires_grad_(False)
        heads = [layer.attention.heads for layer in self.transformer_layers()[:state]]
        if self.relative is not None and not any(heads):
            self.relative.requires_grad_(False)

    def forward(
        self, x: torch.Tensor, mask: torch.Tensor | None, gates: GateValues
    ) -> list[torch.Tensor]:
        """Return the input of every layer and the output, each ``(batch, time, hidden)``."""
        if not self.norm_first:
            x = self.norm(x, gates.hidden, True)
        x = F.dropout(x, self.dropout, self.training)
        bias = self.relative(x.shape[1]) if self.relative is not None else None
        states = [x]
        for index, layer in enumerate(self.layers):
            heads, units = gates.head_layer(index), gates.ffn_layer(index)
            x = layer(x, mask, heads, units, gates.hidden, bias)
            states.append(x)
        if self.norm_first:
            states[-1] = self.norm(x, gates.hidden, True)
        return states
