"""The hard-concrete distribution of gates (Louizos et al. 2018, paper Eqs. 2 and 3)."""

from __future__ import annotations

import math

import numpy as np
import torch

# Gauss-Legendre on 64 nodes integrates the tail probability to about 1e-6.
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(64)
# The noise stays away from 0 and 1, whose logits are infinite; float32 tells such values apart.
_EPSILON = 1e-6


def sample(
    log_alpha: torch.Tensor,
    beta: float,
    stretch: tuple[float, float],
    generator: torch.Generator | None = None,
) -> torch.Tensor:
    """Draw gate values in [0, 1], one per element of ``log_alpha`` (paper Eq. 2).

    The noise comes from ``generator``, or from torch's own.
    """
    low, high = stretch
    u = torch.rand(
        log_alpha.shape, generator=generator, dtype=log_alpha.dtype, device=log_alpha.device
    ).clamp(_EPSILON, 1 - _EPSILON)
    v = torch.sigmoid((torch.logit(u) + log_alpha) / beta)
    return (v * (high - low) + low).clamp(0.0, 1.0)


def open_threshold(beta: float, stretch: tuple[float, float]) -> float:
    """Value of ``log_alpha`` at which a gate is open half of the time."""
    return beta * math.log(-stretch[0] / stretch[1])


def keep_probability(
    log_alpha: torch.Tensor, beta: float, stretch: tuple[float, float]
) -> torch.Tensor:
    """Probability that a gate is not zero (paper Eq. 3)."""
    return torch.sigmoid(log_alpha - open_threshold(beta, stretch))


def log_alpha_for(keep: float, beta: float, stretch: tuple[float, float]) -> float:
    """``log_alpha`` of a gate that is open with probability ``keep``."""
    return math.log(keep / (1 - keep)) + open_threshold(beta, stretch)


def mean(log_alpha: torch.Tensor, beta: float, stretch: tuple[float, float]) -> torch.Tensor:
    """Expected gate value: the integral over t in [0, 1] of the probability that z exceeds t."""
    low, high = stretch
    t = torch.as_tensor((_NODES + 1) / 2, dtype=log_alpha.dtype, device=log_alpha.device)
    weight = torch.as_tensor(_WEIGHTS / 2, dtype=log_alpha.dtype, device=log_alpha.device)
    position = beta * torch.logit((t - low) / (high - low))
    # No matrix product: autocast would run it in half precision.
    return (torch.sigmoid(log_alpha.unsqueeze(-1) - position) * weight).sum(-1)
