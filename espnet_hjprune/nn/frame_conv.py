"""The CNN's convolutions as matrix products over frames that lie one after another in memory.

``(batch, time, channel)`` is read as rows of ``stride`` frames, which is a view: one product for
each ``stride`` taps of the kernel, without a window being copied and without cuDNN's changes of
layout. Rows run over the ends of utterances, so that the frames which come from an utterance's
padding are without meaning; the reader cuts them off.

The activation in front of a convolution, and the norm in front of that, are computed again in the
backward pass: of every layer one tensor is kept.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch.autograd.function import once_differentiable

from espnet_hjprune.nn.kept_norm import kept_norm, kept_norm_backward


@dataclass(frozen=True)
class LayerNorm:
    """A norm over channels in front of the activation.

    Attributes:
        weight: ``(channel,)``.
        bias: ``(channel,)``.
        eps: added to the variance.
        share: weights ``(channel,)`` of the channels in the statistics; ``None`` for equal ones.
    """

    weight: torch.Tensor
    bias: torch.Tensor
    eps: float
    share: torch.Tensor | None = None


def frame_conv(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    stride: int,
    gate: torch.Tensor | None = None,
    norm: LayerNorm | None = None,
) -> torch.Tensor:
    """Convolve ``gelu(norm(x))`` over time, without padding.

    Args:
        x: ``(batch, time, channel)``, contiguous, with a multiple of ``stride`` frames. It is
            overwritten where no gradients are needed.
        weight: ``(out, channel, kernel)``.
        bias: ``(out,)`` or ``None``.
        stride: frames.
        gate: ``(channel,)``; scales the input channels of the weight.
        norm: in front of the activation.

    Returns:
        ``(batch, time / stride, out)`` in the type of ``x``; frames whose kernel reaches beyond
        the utterance are without meaning.
    """
    batch, frames, _ = x.shape
    parts = (norm.weight, norm.bias, norm.share, norm.eps) if norm else (None, None, None, 0.0)
    transformed = torch._C._are_functorch_transforms_active()
    if torch.compiler.is_compiling() or transformed or not torch.is_grad_enabled():
        y = _plain(x, weight, bias, gate, stride, *parts)
    else:
        y = _FrameConv.apply(x, weight, bias, gate, stride, *parts)
    return y.view(batch, frames // stride, len(weight))


def _activate(
    x: torch.Tensor,
    weight: torch.Tensor | None,
    bias: torch.Tensor | None,
    share: torch.Tensor | None,
    eps: float,
) -> tuple[torch.Tensor, tuple[torch.Tensor, ...]]:
    """What the activation reads, and the statistics of the norm in front of it."""
    if weight is None or bias is None:
        return x, ()
    if share is not None:
        with torch.autocast(x.device.type, enabled=False):
            normed, *statistics = kept_norm(x, share, weight, bias, None, eps)
        return normed, tuple(statistics)
    normed, *statistics = torch.ops.aten.native_layer_norm(
        x, [x.shape[-1]], weight.to(x.dtype), bias.to(x.dtype), eps
    )
    return normed, tuple(statistics)


def _packed(weight: torch.Tensor, gate: torch.Tensor | None, dtype: torch.dtype) -> torch.Tensor:
    """The weight as ``(kernel * channel, out)``, scaled and in another type, in one pass."""
    turned = weight.permute(2, 1, 0)
    packed = torch.empty(turned.shape, dtype=dtype, device=weight.device)
    if gate is None:
        packed.copy_(turned)
    else:
        torch.mul(turned, gate.unsqueeze(-1), out=packed)
    return packed.flatten(0, 1)


def _plain(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    gate: torch.Tensor | None,
    stride: int,
    *norm: Any,
) -> torch.Tensor:
    """The convolution as autograd and ``torch.compile`` understand it: ``(rows, out)``."""
    normed = _activate(x, *norm)[0]
    y = F.gelu(normed) if torch.is_grad_enabled() else torch.ops.aten.gelu_(normed)
    turned = weight.permute(2, 1, 0)
    if gate is not None:
        turned = turned * gate.unsqueeze(-1)
    return _products(y, turned.to(x.dtype).flatten(0, 1), bias, stride)


def _products(
    y: torch.Tensor, packed: torch.Tensor, bias: torch.Tensor | None, stride: int
) -> torch.Tensor:
    """Products of ``(batch, time, channel)`` with ``(kernel * channel, out)``: ``(rows, out)``."""
    width = stride * y.shape[-1]
    rows = y.reshape(-1, width)
    first = packed[:width]
    if bias is None:
        result = rows[:, : len(first)] @ first
    else:
        result = torch.addmm(bias.to(y.dtype), rows[:, : len(first)], first)
    for shift, start in enumerate(range(width, len(packed), width), 1):
        part = packed[start : start + width]
        if shift < len(rows):
            inner = result[:-shift]
            inner.addmm_(rows[shift:, : len(part)], part)
    return result


class _FrameConv(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        gate: torch.Tensor | None,
        stride: int,
        norm_weight: torch.Tensor | None,
        norm_bias: torch.Tensor | None,
        share: torch.Tensor | None,
        eps: float,
    ) -> torch.Tensor:
        ctx.stride, ctx.eps = stride, eps
        ctx.save_for_backward(x, weight, bias, gate, norm_weight, norm_bias, share)
        with torch.autocast(x.device.type, enabled=False):
            normed = _activate(x, norm_weight, norm_bias, share, eps)[0]
            y = F.gelu(normed)
            return _products(y, _packed(weight, gate, x.dtype), bias, stride)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        with torch.autocast(grad.device.type, enabled=False):
            return _frame_conv_backward(ctx, grad)


def _frame_conv_backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
    """Gradients of the arguments of ``_FrameConv``."""
    x, weight, bias, gate, norm_weight, norm_bias, share = ctx.saved_tensors
    normed, statistics = _activate(x, norm_weight, norm_bias, share, ctx.eps)
    y = F.gelu(normed)
    packed = _packed(weight, gate, x.dtype)
    width = ctx.stride * x.shape[-1]
    rows = y.view(-1, width)
    packed_grad = torch.empty_like(packed)
    row_grad: torch.Tensor | None = None
    for shift, start in enumerate(range(0, len(packed), width)):
        part = slice(start, min(start + width, len(packed)))
        taps = part.stop - part.start
        read, given = rows[shift:, :taps], grad[: len(rows) - shift]
        torch.mm(read.t(), given, out=packed_grad[part])
        if row_grad is not None:
            row_grad[shift:, :taps].addmm_(given, packed[part].t())
        elif taps == width:
            row_grad = given @ packed[part].t()
        else:
            row_grad = torch.zeros_like(rows)
            torch.mm(given, packed[part].t(), out=row_grad[:, :taps])
    assert row_grad is not None
    normed_grad = torch.ops.aten.gelu_backward(row_grad.view_as(y), normed)
    x_grad = normed_grad
    norm_grads: list[torch.Tensor | None] = [None, None]
    if share is not None:
        x_grad, *norm_grads, _ = kept_norm_backward(
            normed_grad, x, share, norm_weight, norm_bias, None, *statistics
        )
    elif norm_weight is not None:
        x_grad, *norm_grads = torch.ops.aten.native_layer_norm_backward(
            normed_grad,
            x,
            [x.shape[-1]],
            *statistics,
            norm_weight.to(x.dtype),
            norm_bias.to(x.dtype),
            [True, True, True],
        )
    turned = packed_grad.view(weight.shape[2], weight.shape[1], -1).permute(2, 1, 0)
    weight_grad = torch.empty_like(weight)
    gate_grad = None
    if gate is None:
        weight_grad.copy_(turned)
    else:
        gate_grad = (turned * weight).sum((0, 2), dtype=gate.dtype)
        torch.mul(turned, gate.unsqueeze(-1), out=weight_grad)
    bias_grad = None if bias is None else grad.sum(0, dtype=bias.dtype)
    norm_grads = [part if part is None else part.to(weight.dtype) for part in norm_grads]
    return x_grad, weight_grad, bias_grad, gate_grad, None, *norm_grads, None, None
