"""Products with weights whose input features are gated, without a copy of the weights.

Autograd would keep the scaled weights of every layer until the backward pass, about as many again
as the model has. Here weight and gate are kept, which are there anyway.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch.autograd.function import once_differentiable


def gated_linear(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, gate: torch.Tensor | None
) -> torch.Tensor:
    """Linear layer on ``(..., in)``, the columns of whose weight ``(out, in)`` are scaled.

    Each value of ``gate`` ``(units,)`` scales ``in / units`` columns: one, or those of a head.
    """
    if gate is None:
        return F.linear(x, weight, bias)
    if torch.compiler.is_compiling() or not torch.is_grad_enabled():
        return F.linear(x, _scaled(weight, gate, weight.dtype), bias)
    product: torch.Tensor = _GatedLinear.apply(_cast(x), weight, bias, gate)
    return product


def _cast(x: torch.Tensor) -> torch.Tensor:
    """What autocast does before a product."""
    if not torch.is_autocast_enabled(x.device.type) or x.dtype == torch.float64:
        return x
    return x.to(torch.get_autocast_dtype(x.device.type))


def _scaled(weight: torch.Tensor, gate: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Scale columns of ``(out, in)``, by heads or one by one."""
    columns, gate = weight.view(len(weight), len(gate), -1), gate.unsqueeze(-1)
    if torch.is_grad_enabled():
        return (columns * gate.to(dtype)).to(dtype).view_as(weight)
    # One pass for both, the product and the change of type.
    return torch.mul(columns, gate, out=torch.empty_like(columns, dtype=dtype)).view_as(weight)


class _GatedLinear(torch.autograd.Function):
    """Scales what is smaller, the input or the weight: the result is the same.

    In mixed precision the scaled weight is kept, as autocast keeps what it has cast.
    """

    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, gate: torch.Tensor
    ) -> torch.Tensor:
        scaled = None
        with torch.autocast(x.device.type, enabled=False):
            if len(x.flatten(0, -2)) < len(weight):
                y = F.linear(_by_heads(x, gate), weight.to(x.dtype), bias.to(x.dtype))
            else:
                scaled = _scaled(weight, gate, x.dtype)
                y = F.linear(x, scaled, bias.to(x.dtype))
        ctx.save_for_backward(x, weight, bias, gate, None if x.dtype == weight.dtype else scaled)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x, weight, bias, gate, scaled = ctx.saved_tensors
        rows, inputs = grad.flatten(0, -2), x.flatten(0, -2)
        bias_grad = rows.sum(0, dtype=bias.dtype)
        if len(inputs) < len(weight):
            x_grad = rows @ weight.to(x.dtype)
            gate_grad = _over_heads((inputs * x_grad).sum(0, dtype=gate.dtype), gate)
            weight_grad = (rows.t() @ _by_heads(inputs, gate)).to(weight.dtype)
            return _by_heads(x_grad, gate).view_as(x), weight_grad, bias_grad, gate_grad
        x_grad = rows @ (_scaled(weight, gate, x.dtype) if scaled is None else scaled)
        weight_grad = rows.t() @ inputs
        gate_grad = _over_heads((weight_grad * weight).sum(0, dtype=gate.dtype), gate)
        weight_grad = _scaled(weight_grad, gate, weight.dtype)
        return x_grad.view_as(x), weight_grad, bias_grad, gate_grad


def _by_heads(x: torch.Tensor, gate: torch.Tensor) -> torch.Tensor:
    """Scale the features of ``(..., in)``, by heads or one by one."""
    columns = x.view(*x.shape[:-1], len(gate), -1)
    return (columns * gate.to(x.dtype).unsqueeze(-1)).flatten(-2)


def _over_heads(x: torch.Tensor, gate: torch.Tensor) -> torch.Tensor:
    """Sum ``(in,)`` over what belongs to each value of the gate."""
    return x.view(len(gate), -1).sum(-1)
