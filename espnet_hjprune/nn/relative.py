"""The gated relative position bias of WavLM's attention."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import nn

from espnet_hjprune.nn.config import RelativeBiasConfig
from espnet_hjprune.nn.export_mode import is_exporting

# Outputs of a head's gate projection that are summed up for each of its two gates.
SUMMANDS = 4


class RelativeBias(nn.Module):
    """Bias of every head by bucketed distance; one table serves all layers."""

    def __init__(self, config: RelativeBiasConfig) -> None:
        super().__init__()
        self.config = config
        # The scale that Transformers are initialised with; a model that is loaded brings its own.
        self.table = nn.Parameter(torch.randn(config.buckets, config.heads) * 0.02)

    def buckets(self, distances: torch.Tensor) -> torch.Tensor:
        """Bucket of each distance (key minus query position, in frames).

        Half of the buckets is for each sign. Of these, half is for single frames and the rest
        grows logarithmically up to ``max_distance``.
        """
        half = self.config.buckets // 2
        exact = half // 2
        size = distances.abs()
        ratio = torch.log(size.clamp(min=1).float() / exact)
        ratio = ratio / math.log(self.config.max_distance / exact) * (half - exact)
        far = (exact + ratio.to(torch.long)).clamp(max=half - 1)
        return torch.where(size < exact, size, far) + half * (distances > 0)

    def forward(self, frames: int) -> torch.Tensor:
        """Bias ``(heads, frames, frames)``, queries before keys."""
        distances = torch.arange(1 - frames, frames, device=self.table.device)
        by_distance = self.table[self.buckets(distances)].t()
        if is_exporting():
            # Windows would fix the number of frames.
            positions = torch.arange(frames, device=self.table.device)
            return by_distance[:, positions - positions.unsqueeze(1) + frames - 1]
        # Row s of the windows starts at distance s - (frames - 1), so queries count backwards.
        return by_distance.unfold(1, frames, 1).flip(1)


class BiasGate(nn.Module):
    """One layer's gates on the relative position bias, computed by each head from the input.

    A head of the dense model reads ``head_dim`` of the input features, of which pruning leaves
    some. ``dense_features`` says where the hidden features stand in the dense model.

    The gates are those of WavLM (Chen et al. 2022), as its published models compute them: the
    projection's outputs are summed up in two groups of four.
    """

    slots: torch.Tensor
    owned: torch.Tensor

    def __init__(
        self, config: RelativeBiasConfig, columns: list[int], dense_features: list[int]
    ) -> None:
        super().__init__()
        self.proj = nn.Linear(config.head_dim, 2 * SUMMANDS)
        self.scale = nn.Parameter(torch.ones(len(columns)))
        features = torch.tensor(dense_features)
        owner = features.div(config.head_dim, rounding_mode="floor")
        self.register_buffer("slots", features % config.head_dim, persistent=False)
        self.register_buffer("owned", torch.tensor(columns)[:, None] == owner, persistent=False)
        if not columns:
            # Unused parameters must not be trained: distributed training would object.
            self.requires_grad_(False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Gates ``(batch, heads, time, 1)`` from the layer's input ``(batch, time, hidden)``."""
        batch, time, _ = x.shape
        heads = len(self.scale)
        # The sum over outputs is taken in the weights: two rows for each head.
        weight = self.proj.weight.view(2, SUMMANDS, -1).sum(1)[:, self.slots]
        rows = (weight[:, None] * self.owned).reshape(2 * heads, -1)
        bias = self.proj.bias.view(2, SUMMANDS).sum(1).repeat_interleave(heads)
        pairs = torch.sigmoid(F.linear(x, rows, bias)).view(batch, time, 2, heads)
        inner, outer = pairs.permute(2, 0, 3, 1).unsqueeze(-1)
        gates: torch.Tensor = inner * (outer * self.scale.view(-1, 1, 1) - 1.0) + 2.0
        return gates
