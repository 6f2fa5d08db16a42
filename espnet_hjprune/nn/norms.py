"""Layer normalisation over the features that are kept."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.autograd.function import once_differentiable

from espnet_hjprune.nn.gate_values import FeatureGate, scale


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
            return super().forward(x)
        weight: torch.Tensor | None = self.weight
        bias: torch.Tensor = self.bias
        if weight is None:
            # Without an affine, closed features become zero.
            weight, bias = gate.keep, torch.zeros_like(gate.keep)
        if scale_output:
            weight, bias = scale(weight, gate.value, 0), scale(bias, gate.value, 0)
        exact = torch.promote_types(x.dtype, torch.float32)
        keep = gate.keep.to(exact)
        share = keep / keep.sum().clamp(min=1)
        normed: torch.Tensor = _KeptNorm.apply(x, share, weight.to(exact), bias.to(exact), self.eps)
        return normed


class _KeptNorm(torch.autograd.Function):
    """LayerNorm with weighted statistics; keeps its input for the backward pass, like torch's.

    Equal shares are the layer normalisation of Ba et al. 2016; the gradient is derived in the same
    way. With shares ``s`` that sum to 1: ``m = sum_j s_j x_j``, ``v = sum_j s_j (x_j - m)^2``,
    ``n = (x - m) / sqrt(v + eps)``, and the output is ``n * weight + bias``.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        share: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor,
        eps: float,
    ) -> torch.Tensor:
        # Autocast would run the products in half precision.
        with torch.autocast(x.device.type, enabled=False):
            wide = x.to(share.dtype)
            mean = (wide @ share).unsqueeze(-1)
            centred = wide - mean
            rstd = torch.rsqrt((centred.square() @ share).unsqueeze(-1) + eps)
            ctx.save_for_backward(x, share, weight, mean, rstd)
            return centred.mul_(rstd).mul_(weight).add_(bias).to(x.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x, share, weight, mean, rstd = ctx.saved_tensors
        grad = grad.to(share.dtype)
        normed = (x.to(share.dtype) - mean).mul_(rstd)
        product = grad * normed
        bias_grad = grad.flatten(0, -2).sum(0)
        weight_grad = product.flatten(0, -2).sum(0)
        first = (grad @ weight).unsqueeze(-1)
        second = (product @ weight).unsqueeze(-1)
        # With g = grad * weight: x_grad = rstd * (g - share * (sum of g + n * sum of g n)).
        common = torch.addcmul(first, normed, second, out=normed)
        x_grad = torch.mul(grad, weight, out=product).addcmul_(common, share, value=-1).mul_(rstd)
        return x_grad.to(x.dtype), None, weight_grad, bias_grad, None


def normalise_utterances(
    wave: torch.Tensor, lengths: torch.Tensor, epsilon: float = 1e-5
) -> torch.Tensor:
    """Scale every utterance of ``(batch, samples)`` to zero mean and unit variance.

    Statistics cover ``lengths`` samples (biased variance plus ``epsilon``); padding becomes zero.
    """
    inside = torch.arange(wave.shape[1], device=wave.device) < lengths.unsqueeze(1)
    inside = inside.to(wave.dtype)
    count = lengths.to(wave.dtype).unsqueeze(1)
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
    """Apply a GroupNorm with one channel per group in float32."""
    return F.group_norm(
        x.float(), norm.num_groups, norm.weight.float(), norm.bias.float(), norm.eps
    ).to(x.dtype)
