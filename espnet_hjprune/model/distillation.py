"""Losses by which a dense model teaches the pruned one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F

from espnet_hjprune.errors import HJPruneError
from espnet_hjprune.options import build_dataclass


@dataclass
class DistillationConfig:
    """What is learned from a teacher, beside the task.

    Attributes:
        teacher: file of the teacher's weights, beside its ``config.yaml``; ``None`` for the model
            that the training starts from.
        hidden: weight of the distance between hidden states.
        logits: weight of the divergence between the outputs.
        layers: states that are compared, 0 being the input of the first Transformer layer;
            ``None`` for all.
        temperature: of the outputs' distributions.
    """

    teacher: str | None = None
    hidden: float = 1.0
    logits: float = 0.1
    layers: list[int] | None = None
    temperature: float = 1.0

    def __post_init__(self) -> None:
        """Check every option."""
        for name in ("hidden", "logits"):
            if getattr(self, name) < 0:
                raise HJPruneError(
                    f"distillation.{name} is {getattr(self, name)}; it cannot be negative"
                )
        if self.hidden == 0 and self.logits == 0:
            raise HJPruneError(
                "distillation.hidden and distillation.logits are both 0, so that nothing would be "
                "learned from the teacher; remove distillation instead"
            )
        if self.temperature <= 0:
            raise HJPruneError(
                f"distillation.temperature is {self.temperature}; it must be positive"
            )
        if self.teacher is not None and not isinstance(self.teacher, str):
            raise HJPruneError(
                f"distillation.teacher is {self.teacher!r}, not the name of a file of weights"
            )
        if self.layers is not None and (
            not isinstance(self.layers, list)
            or not self.layers
            or not all(type(layer) is int and layer >= 0 for layer in self.layers)
        ):
            raise HJPruneError(
                f"distillation.layers is {self.layers}, not a list of layers such as [0, 6, 12]"
            )

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> DistillationConfig:
        """Build from a mapping, as it stands in a YAML file.

        Raises:
            HJPruneError: an unknown option or a value out of range.
        """
        return build_dataclass(cls, values, "distillation")


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
