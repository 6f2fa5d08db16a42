"""Products with weights whose input features are gated, without a copy of the weights.

Autograd would keep the scaled weights of every layer until the backward pass, about as many again
as the model has. Here weight and gate are kept, which are there anyway.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch.autograd.function import once_differentiable

from espnet_hjprune.nn.gate_values import scale


def gated_linear(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, gate: torch.Tensor | None
) -> torch.Tensor:
    """Linear layer on ``(..., in)``, whose weight ``(out, in)`` is scaled by ``gate`` ``(in,)``."""
    if gate is None or not torch.is_grad_enabled():
        return F.linear(x, scale(weight, gate, 1), bias)
    product: torch.Tensor = _GatedLinear.apply(*_cast(x, weight, bias), gate)
    return product


def gated_conv1d(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    stride: tuple[int, ...],
    gate: torch.Tensor | None,
) -> torch.Tensor:
    """Convolution of ``(batch, in, time)``, whose weight ``(out, in, kernel)`` is scaled.

    ``gate`` ``(in,)`` scales the input channels; ``None`` leaves them as they are.
    """
    if gate is None:
        return F.conv1d(x, weight, bias, stride)
    product: torch.Tensor = _GatedConv1d.apply(*_cast(x, weight, bias), stride, gate)
    return product


def _cast(x: torch.Tensor, *others: torch.Tensor | None) -> list[torch.Tensor | None]:
    """What autocast does before a product."""
    tensors = [x, *others]
    if not torch.is_autocast_enabled(x.device.type):
        return tensors
    dtype = torch.get_autocast_dtype(x.device.type)
    return [tensor if tensor is None else tensor.to(dtype) for tensor in tensors]


class _GatedLinear(torch.autograd.Function):
    """Scales what is smaller, the input or the weight: the result is the same."""

    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, gate: torch.Tensor
    ) -> torch.Tensor:
        ctx.save_for_backward(x, weight, gate)
        if len(x.flatten(0, -2)) < len(weight):
            return F.linear(scale(x, gate, -1), weight, bias)
        return F.linear(x, scale(weight, gate, 1), bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x, weight, gate = ctx.saved_tensors
        rows, inputs = grad.flatten(0, -2), x.flatten(0, -2)
        x_grad = rows @ weight
        if len(inputs) < len(weight):
            gate_grad = (inputs * x_grad).sum(0, dtype=gate.dtype)
            weight_grad = rows.t() @ scale(inputs, gate, -1)
        else:
            weight_grad = rows.t() @ inputs
            gate_grad = (weight_grad * weight).sum(0, dtype=gate.dtype)
            weight_grad.mul_(gate.to(weight.dtype))
        x_grad.mul_(gate.to(weight.dtype))
        return x_grad.view_as(x), weight_grad, rows.sum(0), gate_grad


class _GatedConv1d(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        stride: tuple[int, ...],
        gate: torch.Tensor,
    ) -> torch.Tensor:
        ctx.stride, ctx.has_bias = stride, bias is not None
        ctx.save_for_backward(x, weight, gate)
        return F.conv1d(x, scale(weight, gate, 1), bias, stride)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x, weight, gate = ctx.saved_tensors
        x_grad, weight_grad, bias_grad = torch.ops.aten.convolution_backward(
            grad,
            x,
            scale(weight, gate, 1),
            [len(weight)] if ctx.has_bias else None,
            ctx.stride,
            [0],
            [1],
            False,
            [0],
            1,
            [ctx.needs_input_grad[0], True, ctx.has_bias],
        )
        gate_grad = (weight_grad * weight).sum((0, 2), dtype=gate.dtype)
        return x_grad, scale(weight_grad, gate, 1), bias_grad, None, gate_grad
