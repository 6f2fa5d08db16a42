"""Losses by which a dense model teaches the pruned one."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F


def hidden_loss(
    student: Sequence[torch.Tensor],
    teacher: Sequence[torch.Tensor],
    inside: torch.Tensor,
    keep: torch.Tensor | None = None,
) -> torch.Tensor:
    """Squared distance of hidden states, relative to the teacher's squares, mean over states.

    Layer by layer as in CoFi (Xia et al. 2022), without a projection, as pruning keeps the
    features' meaning. Dividing by the teacher's squares, which is ours, makes one weight fit
    models and layers of any scale.

    Args:
        student: states, each ``(batch, time, hidden)``.
        teacher: the same features of the teacher, same shapes.
        inside: ``(batch, time)``, true on valid frames.
        keep: ``(hidden,)``, 0 for features that are closed in this pass and not compared.
    """
    counted = inside.unsqueeze(-1).float()
    if keep is not None:
        counted = counted * keep.float()
    shares = []
    for own, goal in zip(student, teacher, strict=True):
        goal = goal.float()
        distance = ((own.float() - goal).square() * counted).sum()
        size = (goal.square() * counted).sum()
        shares.append(distance / size.clamp(min=torch.finfo(size.dtype).tiny))
    return torch.stack(shares).mean()


def l1_cosine_loss(
    student: Sequence[torch.Tensor],
    teacher: Sequence[torch.Tensor],
    inside: torch.Tensor,
    keep: torch.Tensor | None = None,
) -> torch.Tensor:
    """Mean absolute distance and ``-log sigmoid`` of the cosine, per frame, mean over states.

    As DistilHuBERT (Chang et al. 2022, Eq. 1) and DPHuBERT (Peng et al. 2023) have it. Arguments as
    of :func:`hidden_loss`.
    """
    frames = inside.float()
    count = frames.sum().clamp(min=1)
    losses = []
    for own, goal in zip(student, teacher, strict=True):
        own, goal = own.float(), goal.float()
        features: float | torch.Tensor = own.shape[-1]
        if keep is not None:
            own, goal = own * keep, goal * keep
            features = keep.float().sum().clamp(min=1)
        distance = (own - goal).abs().sum(-1) / features
        angle = F.logsigmoid(F.cosine_similarity(own, goal, dim=-1))
        losses.append(((distance - angle) * frames).sum() / count)
    return torch.stack(losses).mean()


# What can be learned of hidden states, by its name in configurations.
DISTANCES = {"relative_l2": hidden_loss, "l1_cosine": l1_cosine_loss}


def logits_loss(
    student: torch.Tensor,
    teacher: torch.Tensor,
    lengths: torch.Tensor | None = None,
    temperature: float = 1.0,
) -> torch.Tensor:
    """Kullback-Leibler divergence from the teacher's outputs to the student's (Hinton et al. 2015).

    It is summed over positions and averaged over utterances, as ESPnet's losses are, and scaled
    by the squared temperature, so that its gradient keeps its size.

    Args:
        student: ``(batch, classes)`` or ``(batch, time, classes)``.
        teacher: the same shape.
        lengths: valid positions ``(batch,)``; ``None`` for all.
        temperature: divides both.
    """
    own = (student.float() / temperature).log_softmax(-1)
    goal = (teacher.float() / temperature).log_softmax(-1)
    divergence = F.kl_div(own, goal, reduction="none", log_target=True).sum(-1)
    if lengths is not None:
        positions = torch.arange(divergence.shape[1], device=divergence.device)
        outside = positions >= lengths.to(divergence.device).unsqueeze(1)
        divergence = divergence.masked_fill(outside, 0.0)
    return divergence.sum() / len(student) * temperature**2
