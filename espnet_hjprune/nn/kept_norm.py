"""Layer normalisation over the features that are kept: values and gradients.

Equal shares are the layer normalisation of Ba et al. 2016; the gradient is derived in the same way.
With shares ``s`` that sum to 1: ``m = sum_j s_j x_j``, ``v = sum_j s_j (x_j - m)^2``,
``n = (x - m) / sqrt(v + eps)``, and the output is ``(n * weight + bias) * value``.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.autograd.function import once_differentiable

from espnet_hjprune.nn.fusion import fused


@fused
def kept_norm(
    x: torch.Tensor,
    share: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor,
    value: torch.Tensor | None,
    eps: float,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Normalise in the type of ``share``; autocast must be off.

    Args:
        x: ``(..., features)``.
        share: ``(features,)``, weights of the features in the statistics; they sum to 1.
        weight: ``(features,)``.
        bias: ``(features,)``.
        value: ``(features,)``, scales the output; ``None`` for not at all.
        eps: added to the variance.

    Returns:
        Output in the type of ``x``; mean and reciprocal standard deviation ``(..., 1)``.
    """
    weight, bias = weight.to(share.dtype), bias.to(share.dtype)
    if value is not None:
        weight, bias = weight * value, bias * value
    wide = x.to(share.dtype)
    mean = (wide @ share).unsqueeze(-1)
    centred = wide - mean
    rstd = torch.rsqrt((centred.square() @ share).unsqueeze(-1) + eps)
    return centred.mul_(rstd).mul_(weight).add_(bias).to(x.dtype), mean, rstd


@fused
def kept_norm_backward(
    grad: torch.Tensor,
    x: torch.Tensor,
    share: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor,
    value: torch.Tensor | None,
    mean: torch.Tensor,
    rstd: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor | None]:
    """Gradients of ``x``, weight, bias and value, from that of the output of :func:`kept_norm`."""
    weight, bias = weight.to(share.dtype), bias.to(share.dtype)
    scaled = weight if value is None else weight * value
    grad = grad.to(share.dtype)
    normed = (x.to(share.dtype) - mean).mul_(rstd)
    product = grad * normed
    bias_grad = grad.flatten(0, -2).sum(0)
    weight_grad = product.flatten(0, -2).sum(0)
    first = (grad @ scaled).unsqueeze(-1)
    second = (product @ scaled).unsqueeze(-1)
    # With g = grad * scaled: x_grad = rstd * (g - share * (sum of g + n * sum of g n)).
    common = normed.mul_(second).add_(first)
    x_grad = (grad * scaled).addcmul_(common, share, value=-1).mul_(rstd)
    value_grad = None
    if value is not None:
        value_grad = weight_grad * weight + bias_grad * bias
        weight_grad, bias_grad = weight_grad * value, bias_grad * value
    return x_grad.to(x.dtype), weight_grad, bias_grad, value_grad


class KeptNorm(torch.autograd.Function):
    """:func:`kept_norm` with its gradient; like torch's norm it keeps its input."""

    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        share: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor,
        value: torch.Tensor | None,
        eps: float,
    ) -> torch.Tensor:
        """Normalise ``(..., features)``."""
        # Autocast would run the products in half precision.
        with torch.autocast(x.device.type, enabled=False):
            y, mean, rstd = kept_norm(x, share, weight, bias, value, eps)
        ctx.save_for_backward(x, share, weight, bias, value, mean, rstd)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """Gradients of the arguments."""
        dtype = ctx.saved_tensors[2].dtype
        with torch.autocast(grad.device.type, enabled=False):
            x_grad, weight_grad, bias_grad, value_grad = kept_norm_backward(
                grad, *ctx.saved_tensors
            )
        return x_grad, None, weight_grad.to(dtype), bias_grad.to(dtype), value_grad, None
