"""Options of the distillation; reading them takes no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

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
        check_layers(self.layers, "distillation.layers")

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> DistillationConfig:
        """Build from a mapping, as it stands in a YAML file.

        Raises:
            HJPruneError: an unknown option or a value out of range.
        """
        return build_dataclass(cls, values, "distillation")


def check_layers(layers: Any, option: str) -> None:
    """Check a list of hidden states; ``None`` stands for all.

    Raises:
        HJPruneError: it is none.
    """
    if layers is not None and (
        not isinstance(layers, list)
        or not layers
        or not all(type(layer) is int and layer >= 0 for layer in layers)
    ):
        raise HJPruneError(f"{option} is {layers}, not a list of layers such as [0, 6, 12]")
