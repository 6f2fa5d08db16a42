"""Layer normalisation over the features that are kept."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from espnet_hjprune.nn.gate_values import FeatureGate
from espnet_hjprune.nn.kept_norm import KeptNorm


class FeatureNorm(nn.LayerNorm):
    """LayerNorm over the last axis that knows which features exist.

    A closed feature is absent, not zero: with a gate, mean and variance are taken over the kept
    features alone, so that a model without the closed features computes the same.
    """

    def forward(
        self, x: torch.Tensor, gate: FeatureGate | None = None, scale_output: bool = False
    ) -> torch.Tensor:
        """Normalise ``x`` of shape ``(..., features)``.

        Args:
            x: features.
            gate: which features are kept; ``None`` for all.
            scale_output: also multiply the output by the gate's value, through the affine.
        """
        if gate is None:
            # With autocast, torch would compute float32 from what was in half precision.
            with torch.autocast(x.device.type, enabled=False):
                weight, bias = (p if p is None else p.to(x.dtype) for p in (self.weight, self.bias))
                return F.layer_norm(x, self.normalized_shape, weight, bias, self.eps)
        weight, bias = self.weight, self.bias
        if weight is None:
            # Without an affine, closed features become zero.
            weight, bias = gate.keep, torch.zeros_like(gate.keep)
        exact = torch.promote_types(x.dtype, torch.float32)
        value = gate.value.to(exact) if scale_output else None
        share = gate.share_in(exact)
        normed: torch.Tensor = KeptNorm.apply(x, share, weight, bias, value, self.eps)
        return normed


def normalise_utterances(
    wave: torch.Tensor, lengths: torch.Tensor, epsilon: float = 1e-5
) -> torch.Tensor:
    """Scale every utterance of ``(batch, samples)`` to zero mean and unit variance.

    Statistics cover ``lengths`` samples (biased variance plus ``epsilon``); padding becomes zero,
    and so do utterances that are constant or have no samples.
    """
    inside = torch.arange(wave.shape[1], device=wave.device) < lengths.unsqueeze(1)
    inside = inside.to(wave.dtype)
    count = lengths.clamp(min=1).to(wave.dtype).unsqueeze(1)
    mean = (wave * inside).sum(1, keepdim=True) / count
    centred = (wave - mean) * inside
    variance = centred.square().sum(1, keepdim=True) / count
    return centred * torch.rsqrt(variance + epsilon)


def channel_norm(
    norm: FeatureNorm, x: torch.Tensor, gate: FeatureGate | None = None
) -> torch.Tensor:
    """Apply a :class:`FeatureNorm` to the channels of ``(batch, channel, time)``."""
    normed: torch.Tensor = norm(x.transpose(1, 2), gate)
    return normed.transpose(1, 2)


def group_norm_per_channel(norm: nn.GroupNorm, x: torch.Tensor) -> torch.Tensor:
    """Apply a GroupNorm with one channel per group in float32 at least."""
    exact = torch.promote_types(x.dtype, torch.float32)
    weight, bias = norm.weight.to(exact), norm.bias.to(exact)
    return F.group_norm(x.to(exact), norm.num_groups, weight, bias, norm.eps).to(x.dtype)
