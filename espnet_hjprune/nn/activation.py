"""GELU that does not copy where nothing is learned."""

from __future__ import annotations

import torch
import torch.nn.functional as F


def gelu(x: torch.Tensor) -> torch.Tensor:
    """GELU of a tensor that the caller does not need any more.

    For the CNN, whose outputs are large: without gradients it is computed in place, as fresh
    memory for one of them costs several times what the function itself does.
    """
    return F.gelu(x) if torch.is_grad_enabled() else torch.ops.aten.gelu_(x)
