"""A pruned speech encoder of the wav2vec 2.0 family, in plain PyTorch.

Every layer has sizes of its own. The file was written by ``hjprune export`` beside the weights of a
model; it needs torch and nothing else. Tensors are ``(batch, time, channel)`` unless said
otherwise.
"""

import math
from collections import Counter

import torch
import torch.nn.functional as F
from torch import nn


class HJPruneEncoder(nn.Module):
    """CNN, projection, positional embedding and Transformer.

    An utterance gets the states that it has alone, whatever else is in the batch.

    Args:
        architecture: the sizes, as ``config.json`` has them.
        dropout: probability on residual branches and attention weights while training.

    Example:
        >>> states, frames = encoder(torch.randn(2, 16000), torch.tensor([16000, 12000]))
        >>> states[-1].shape, frames
        (torch.Size([2, 49, 768]), tensor([49, 37]))
    """

    def __init__(self, architecture: dict, dropout: float = 0.0) -> None:
        super().__init__()
        self.architecture = architecture
        hidden = architecture["hidden_size"]
        self.feature_extractor = FeatureExtractor(architecture)
        self.feature_projection = FeatureProjection(architecture)
        self.mask_embedding = nn.Parameter(torch.zeros(hidden))
        self.positional_embedding = PositionalEmbedding(**architecture["positional"])
        self.transformer = Transformer(architecture, dropout)

    @property
    def output_size(self) -> int:
        """Width of the states."""
        return self.architecture["output_width"] or self.architecture["hidden_size"]

    @property
    def downsampling(self) -> int:
        """Samples from one frame to the next."""
        return math.prod(layer["stride"] for layer in self.architecture["conv_layers"])

    @property
    def receptive_field(self) -> int:
        """Samples that a frame reads."""
        samples = 1
        for layer in reversed(self.architecture["conv_layers"]):
            samples = (samples - 1) * layer["stride"] + layer["kernel"]
        return samples

    def frames(self, samples: torch.Tensor) -> torch.Tensor:
        """Valid frames ``(batch,)`` of utterances of so many samples ``(batch,)``."""
        for layer in self.architecture["conv_layers"]:
            samples = (samples - layer["kernel"]).div(layer["stride"], rounding_mode="floor") + 1
        return samples.clamp(min=1)

    def forward(
        self, wave: torch.Tensor, lengths: torch.Tensor
    ) -> tuple[list[torch.Tensor], torch.Tensor]:
        """Encode a padded batch.

        Args:
            wave: ``(batch, samples)`` at 16 kHz, between -1 and 1, zero after the end.
            lengths: ``(batch,)`` samples of the utterances.

        Returns:
            The input of the first Transformer layer and the output of each, and the valid frames
            ``(batch,)``. What is behind these has no meaning.
        """
        options = self.architecture
        missing = self.receptive_field - wave.shape[1]
        wave = F.pad(wave, (0, max(0, missing)))
        if options["normalize_input"]:
            wave = normalise(wave, lengths, options["normalize_epsilon"])
        frames = self.frames(lengths.clamp(min=self.receptive_field))
        x = self.feature_extractor(wave, lengths.clamp(min=self.receptive_field))
        x = self.feature_projection(x)
        outside = torch.arange(x.shape[1], device=x.device) >= frames[:, None]
        x = x.masked_fill(outside[..., None], 0.0)
        states = self.transformer(x + self.positional_embedding(x, outside), ~outside)
        if options["first_state"] == "projected":
            states[0] = x
        return [self.present(state) for state in states], frames

    def present(self, state: torch.Tensor) -> torch.Tensor:
        """What readers get of a state: with a norm, and at the places of the unpruned model."""
        if self.architecture["normalize_states"]:
            state = F.layer_norm(state, state.shape[-1:])
        positions = self.architecture["output_positions"]
        if positions is None:
            return state
        full = state.new_zeros(*state.shape[:-1], self.output_size)
        return full.index_copy(-1, torch.tensor(positions, device=state.device), state)


def normalise(wave: torch.Tensor, lengths: torch.Tensor, epsilon: float) -> torch.Tensor:
    """Scale every utterance of ``(batch, samples)`` to zero mean and unit variance."""
    # In half precision a number of samples would be infinite.
    wave = wave.float()
    inside = torch.arange(wave.shape[1], device=wave.device) < lengths[:, None]
    count = lengths.clamp(min=1)[:, None]
    mean = (wave * inside).sum(1, keepdim=True) / count
    centred = (wave - mean) * inside
    variance = centred.square().sum(1, keepdim=True) / count
    return centred * torch.rsqrt(variance + epsilon)


class FeatureExtractor(nn.Module):
    """The CNN from samples to frames."""

    def __init__(self, architecture: dict) -> None:
        super().__init__()
        layers, before = [], 1
        for number, sizes in enumerate(architecture["conv_layers"]):
            layers.append(ConvLayer(before, sizes, architecture, is_first=number == 0))
            before = sizes["channels"]
        self.layers = nn.ModuleList(layers)
        self.kernel, self.stride = (architecture["conv_layers"][0][x] for x in ("kernel", "stride"))

    def forward(self, wave: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        """Map ``(batch, samples)`` to frames, with ``lengths`` ``(batch,)`` samples."""
        frames = (lengths - self.kernel).div(self.stride, rounding_mode="floor") + 1
        x = wave.to(next(self.parameters()).dtype).unsqueeze(1)
        for layer in self.layers:
            x = layer(x, frames)
        return x.transpose(1, 2)


class ConvLayer(nn.Module):
    """Convolution, a norm over time, over channels or none, GELU; ``(batch, channel, time)``."""

    def __init__(self, before: int, sizes: dict, architecture: dict, is_first: bool) -> None:
        super().__init__()
        channels = sizes["channels"]
        self.conv = nn.Conv1d(
            before, channels, sizes["kernel"], sizes["stride"], bias=architecture["conv_bias"]
        )
        self.norm = None
        self.over_time = architecture["extractor_norm"] == "group"
        if is_first or not self.over_time:
            self.norm = nn.LayerNorm(channels)

    def forward(self, x: torch.Tensor, frames: torch.Tensor) -> torch.Tensor:
        """Apply the layer; norms over time cover ``frames`` ``(batch,)`` of the first layer."""
        x = self.conv(x)
        if self.norm is not None and self.over_time:
            wide = x.float()
            inside = (torch.arange(x.shape[2], device=x.device) < frames[:, None])[:, None]
            count = frames[:, None, None]
            mean = (wide * inside).sum(2, keepdim=True) / count
            centred = wide - mean
            variance = (centred.square() * inside).sum(2, keepdim=True) / count
            scale = self.norm.weight[:, None] * torch.rsqrt(variance + self.norm.eps)
            x = (centred * scale + self.norm.bias[:, None]).to(x.dtype)
        elif self.norm is not None:
            x = self.norm(x.transpose(1, 2)).transpose(1, 2)
        return F.gelu(x)


class FeatureProjection(nn.Module):
    """From the CNN's channels to the width of the Transformer."""

    def __init__(self, architecture: dict) -> None:
        super().__init__()
        channels = architecture["conv_layers"][-1]["channels"]
        self.norm = nn.LayerNorm(channels) if architecture["projection_norm"] else nn.Identity()
        self.linear = nn.Linear(channels, architecture["hidden_size"])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Project frames."""
        return self.linear(self.norm(x))


class PositionalEmbedding(nn.Module):
    """Grouped convolutions over time; several are each followed by a norm."""

    def __init__(self, kernel: int, group_widths: list[int], depth: int, **_: object) -> None:
        super().__init__()
        self.convs = nn.ModuleList(PositionalConv(kernel, group_widths) for _ in range(depth))

    def forward(self, x: torch.Tensor, outside: torch.Tensor) -> torch.Tensor:
        """What is added to ``x``; frames ``outside`` ``(batch, time)`` are not read."""
        for conv in self.convs:
            x = conv(x.masked_fill(outside[..., None], 0.0))
            if len(self.convs) > 1:
                x = F.layer_norm(x, x.shape[-1:])
            x = F.gelu(x)
        return x


class PositionalConv(nn.Module):
    """One grouped convolution, whose groups may differ in width: one product for each width."""

    def __init__(self, kernel: int, group_widths: list[int]) -> None:
        super().__init__()
        self.kernel = kernel
        self.widths = group_widths
        self.counts = sorted(Counter(width for width in group_widths if width).items())
        self.weights = nn.ParameterList(
            torch.empty(width * count, width, kernel) for width, count in self.counts
        )
        self.bias = nn.Parameter(torch.zeros(sum(group_widths)))

    def order(self) -> list[int]:
        """The channels with the groups sorted by width."""
        channels = iter(range(sum(self.widths)))
        groups = [[next(channels) for _ in range(width)] for width in self.widths]
        return [channel for group in sorted(groups, key=len) for channel in group]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Convolve frames."""
        order = torch.tensor(self.order(), device=x.device)
        parts, start = [], 0
        y = x.transpose(1, 2)[:, order]
        for weight, (width, count) in zip(self.weights, self.counts, strict=True):
            part = y[:, start : start + width * count]
            parts.append(F.conv1d(part, weight, padding=self.kernel // 2, groups=count))
            start += width * count
        y = torch.cat(parts, 1)[:, order.argsort(), : x.shape[1]]
        return y.transpose(1, 2) + self.bias


class Transformer(nn.Module):
    """The Transformer layers, with a norm before them or, of pre-norm layers, behind."""

    def __init__(self, architecture: dict, dropout: float) -> None:
        super().__init__()
        self.norm_first = architecture["norm_first"]
        self.norm = nn.LayerNorm(architecture["hidden_size"])
        self.relative = RelativeBias(architecture) if architecture["relative"] else None
        self.layers = nn.ModuleList(
            TransformerLayer(architecture, number, dropout)
            for number in range(len(architecture["heads"]))
        )

    def forward(self, x: torch.Tensor, inside: torch.Tensor) -> list[torch.Tensor]:
        """The input of the first layer and the output of each; ``inside`` is ``(batch, time)``."""
        if not self.norm_first:
            x = self.norm(x)
        bias = self.relative(x.shape[1]) if self.relative is not None else None
        states = [x]
        for layer in self.layers:
            states.append(layer(states[-1], inside[:, None, None], bias))
        if self.norm_first:
            states[-1] = self.norm(states[-1])
        return states


class TransformerLayer(nn.Module):
    """Self-attention and feed-forward network."""

    def __init__(self, architecture: dict, number: int, dropout: float) -> None:
        super().__init__()
        hidden = architecture["hidden_size"]
        self.norm_first = architecture["norm_first"]
        self.attention = Attention(architecture, number, dropout)
        self.attention_norm = nn.LayerNorm(hidden)
        self.ffn = FeedForward(hidden, architecture["ffn_sizes"][number], architecture)
        self.ffn_norm = nn.LayerNorm(hidden)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self, x: torch.Tensor, mask: torch.Tensor, bias: torch.Tensor | None
    ) -> torch.Tensor:
        """Apply the layer."""
        if self.norm_first:
            x = x + self.dropout(self.attention(self.attention_norm(x), mask, bias))
            return x + self.dropout(self.ffn(self.ffn_norm(x)))
        x = self.attention_norm(x + self.dropout(self.attention(x, mask, bias)))
        return self.ffn_norm(x + self.dropout(self.ffn(x)))


class Offset(nn.Module):
    """What is left of a branch without units: the bias of its output."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(hidden))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The bias at every frame of ``x``."""
        return self.bias.to(x.dtype).expand_as(x)


class Attention(nn.Module):
    """Multi-head self-attention; query, key and value share one projection."""

    def __init__(self, architecture: dict, number: int, dropout: float) -> None:
        super().__init__()
        hidden, head_dim = architecture["hidden_size"], architecture["head_dim"]
        self.heads, self.head_dim = architecture["heads"][number], head_dim
        self.dropout = dropout
        self.bias_gate, self.columns = None, None
        if self.heads == 0:
            self.out: nn.Module = Offset(hidden)
            return
        self.qkv = nn.Linear(hidden, 3 * self.heads * head_dim)
        self.out = nn.Linear(self.heads * head_dim, hidden)
        relative = architecture["relative"]
        if relative:
            columns = relative["columns"]
            self.columns = columns[number] if columns else list(range(self.heads))
            if relative["gated"]:
                self.bias_gate = BiasGate(architecture, self.columns)

    def forward(
        self, x: torch.Tensor, mask: torch.Tensor, bias: torch.Tensor | None
    ) -> torch.Tensor:
        """Attend to frames where ``mask`` ``(batch, 1, 1, time)`` is true.

        ``bias`` ``(heads of the unpruned model, time, time)`` is added to the scores.
        """
        if self.heads == 0:
            return self.out(x)
        batch, time, _ = x.shape
        qkv = self.qkv(x).view(batch, time, 3, self.heads, self.head_dim)
        query, key, value = qkv.permute(2, 0, 3, 1, 4)
        if bias is not None:
            bias = bias[self.columns].to(x.dtype).unsqueeze(0)
            if self.bias_gate is not None:
                bias = self.bias_gate(x) * bias
            mask = bias.masked_fill(~mask, float("-inf"))
        dropout = self.dropout if self.training else 0.0
        y = F.scaled_dot_product_attention(query, key, value, mask, dropout)
        return self.out(y.transpose(1, 2).reshape(batch, time, self.heads * self.head_dim))


class RelativeBias(nn.Module):
    """Bias of every head by bucketed distance (WavLM); one table serves all layers."""

    def __init__(self, architecture: dict) -> None:
        super().__init__()
        options = architecture["relative"]
        self.side = options["buckets"] // 2
        self.max_distance = options["max_distance"]
        self.table = nn.Parameter(torch.zeros(options["buckets"], options["heads"]))

    def forward(self, time: int) -> torch.Tensor:
        """Bias ``(heads, time, time)``, queries before keys."""
        positions = torch.arange(time, device=self.table.device)
        distance = positions - positions[:, None]
        size, exact = distance.abs(), self.side // 2
        ratio = torch.log(size.clamp(min=1).float() / exact)
        ratio = ratio / math.log(self.max_distance / exact) * (self.side - exact)
        far = (exact + ratio.long()).clamp(max=self.side - 1)
        bucket = torch.where(size < exact, size, far) + self.side * (distance > 0)
        return self.table[bucket].permute(2, 0, 1)


class BiasGate(nn.Module):
    """Gates that each head of a layer computes for its bias from its share of the features."""

    def __init__(self, architecture: dict, columns: list[int]) -> None:
        super().__init__()
        self.columns = columns
        self.width = architecture["relative"]["head_dim"]
        hidden = architecture["hidden_size"]
        # Where the features stand in the unpruned model, whose heads own ``width`` of them each.
        self.features = architecture["hidden_features"] or list(range(hidden))
        self.proj = nn.Linear(self.width, 8)
        self.scale = nn.Parameter(torch.ones(len(columns)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Gates ``(batch, heads, time, 1)``."""
        features = torch.tensor(self.features, device=x.device)
        owner = features.div(self.width, rounding_mode="floor")
        owned = torch.tensor(self.columns, device=x.device)[:, None] == owner
        # The eight outputs are summed up in two groups of four, which the weights can do as well.
        weight = self.proj.weight.view(2, 4, -1).sum(1)[:, features % self.width]
        bias = self.proj.bias.view(2, 4).sum(1)
        rows = weight[:, None] * owned
        pairs = torch.einsum("bth,pch->pbct", x, rows) + bias[:, None, None, None]
        inner, outer = pairs.sigmoid().unsqueeze(-1)
        return inner * (outer * self.scale[:, None, None] - 1.0) + 2.0


class FeedForward(nn.Module):
    """Position-wise feed-forward network."""

    def __init__(self, hidden: int, size: int, architecture: dict) -> None:
        super().__init__()
        self.activation = F.relu if architecture["activation"] == "relu" else F.gelu
        self.fc1 = nn.Linear(hidden, size) if size else None
        self.fc2: nn.Module = nn.Linear(size, hidden) if size else Offset(hidden)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Apply the network."""
        if self.fc1 is None:
            return self.fc2(x)
        return self.fc2(self.activation(self.fc1(x)))
