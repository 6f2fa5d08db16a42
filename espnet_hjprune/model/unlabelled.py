"""Pruning without labels: the dense upstream teaches the pruned one its hidden states."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from espnet_hjprune.errors import HJPruneError
from espnet_hjprune.model.distillation import DISTANCES
from espnet_hjprune.model.distillation_config import check_layers
from espnet_hjprune.model.hidden_states import Lesson
from espnet_hjprune.model.upstream import SpeechUpstream
from espnet_hjprune.model.upstream_options import UpstreamOptions
from espnet_hjprune.options import build_dataclass, read_flag


@dataclass
class UnlabelledConfig:
    """What is learned of a teacher where there are no labels.

    Attributes:
        teacher: name of the dense upstream, as ``upstream`` of the student has it.
        path_or_url: its checkpoint or model directory.
        distance: ``relative_l2``, which is ours, or ``l1_cosine``, that of DPHuBERT.
        layers: states that are compared, 0 being the input of the first Transformer layer, and
            the last one among them; ``None`` for all.
        projection: compare all features of the teacher with learned linear layers of the student's
            states, instead of those features that the student has left.
    """

    teacher: str = ""
    path_or_url: str | None = None
    distance: str = "relative_l2"
    layers: list[int] | None = None
    projection: bool = False

    def __post_init__(self) -> None:
        """Check every option."""
        if not self.teacher:
            raise HJPruneError(
                "model_conf.teacher is missing; name the dense upstream, such as hj_prune_local "
                "with path_or_url: DIR"
            )
        check_layers(self.layers, "model_conf.layers")
        if not isinstance(self.distance, str) or self.distance not in DISTANCES:
            raise HJPruneError(
                f"model_conf.distance is {self.distance}; it is one of {', '.join(DISTANCES)}"
            )
        read_flag(self.projection, "model_conf.projection")

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> UnlabelledConfig:
        """Build from a mapping, as it stands in a YAML file.

        Raises:
            HJPruneError: an unknown option or a wrong value.
        """
        return build_dataclass(cls, values, "model_conf")


class StateTeaching(nn.Module):
    """The distance of a student's hidden states from its teacher's, as the loss of a training.

    The teacher is no part of the module: it is neither trained nor saved.

    Args:
        student: the upstream that is trained, with gates or without.
        options: the teacher, and what is learned of it.

    Raises:
        HJPruneError: the teacher cannot be read, or is not what the student comes from; or the
            last state is not compared.
    """

    def __init__(self, student: SpeechUpstream, options: UnlabelledConfig) -> None:
        super().__init__()
        given = student.options
        teacher = SpeechUpstream(
            UpstreamOptions(
                upstream=options.teacher,
                path_or_url=options.path_or_url,
                # It must hear what the student hears, and come from where that comes from.
                normalize_input=given.normalize_input,
                trust_checkpoint=given.trust_checkpoint,
                download_dir=given.download_dir,
            )
        )
        source = options.path_or_url or options.teacher
        self.lesson = Lesson(
            student, teacher, options.layers, source, options.distance, "model_conf.layers"
        )
        last = student.last_state
        if max(self.lesson.layers) < last:
            raise HJPruneError(
                f"model_conf.layers ends at {max(self.lesson.layers)}, but the model is read at "
                f"{last}: nothing would be learned of the layers between, and pruning would take "
                f"them first; add {last} to model_conf.layers"
            )
        self._teacher = [teacher.eval().requires_grad_(False)]
        self.projections: nn.ModuleList | None = None
        if options.projection:
            sizes = teacher.config.hidden_size, student.config.hidden_size
            self.projections = nn.ModuleList(nn.Linear(*sizes[::-1]) for _ in self.lesson.layers)
            self._start_as_they_are(teacher)

    @property
    def teacher(self) -> SpeechUpstream:
        """The dense upstream."""
        return self._teacher[0]

    @torch.no_grad()
    def _start_as_they_are(self, teacher: SpeechUpstream) -> None:
        """Let the projections hand on what the student has, at its place in the teacher."""
        assert self.projections is not None
        places = self.lesson.places.on(torch.device("cpu"))
        for projection in self.projections:
            assert isinstance(projection, nn.Linear)
            nn.init.zeros_(projection.weight)
            nn.init.zeros_(projection.bias)
            projection.weight[places, torch.arange(len(places))] = 1.0

    def forward(self, wave: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        """The distance in a batch that the student has just encoded.

        Args:
            wave: ``(batch, samples)`` at 16 kHz, as the student got it.
            lengths: ``(batch,)`` samples.
        """
        teacher = self.teacher.to(wave.device)
        with torch.no_grad():
            teacher(wave, lengths)
        return self.lesson.loss(self.projections)
