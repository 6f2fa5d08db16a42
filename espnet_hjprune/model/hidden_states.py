"""A dense model as the teacher of a pruned one: which of their hidden states belong together."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from espnet_hjprune.errors import HJPruneError
from espnet_hjprune.model.distillation import DISTANCES
from espnet_hjprune.model.upstream import SpeechUpstream
from espnet_hjprune.nn.gate_values import GateValues
from espnet_hjprune.pruning.resident import Resident


@dataclass
class HiddenStates:
    """Hidden states of one forward pass.

    Attributes:
        states: input of every Transformer layer and output, each ``(batch, time, hidden)``, up to
            the one that is read.
        inside: ``(batch, time)``, true on valid frames.
        keep: ``(hidden,)``, 0 for features that were closed; ``None`` where none are.
    """

    states: list[torch.Tensor]
    inside: torch.Tensor
    keep: torch.Tensor | None


class HiddenStateRecorder:
    """Keeps the hidden states of an upstream's forward passes, by a hook on its Transformer.

    Args:
        upstream: the upstream; other models may read it at the same time.
    """

    def __init__(self, upstream: SpeechUpstream) -> None:
        self.upstream = upstream
        self._last: HiddenStates | None = None
        upstream.encoder.transformer.register_forward_hook(self._keep)

    def take(self) -> HiddenStates:
        """Hidden states of the last forward pass, once.

        Raises:
            RuntimeError: there was none since the last call.
        """
        if self._last is None:
            raise RuntimeError("the upstream has not been used in the forward pass")
        last, self._last = self._last, None
        return last

    def forget(self) -> None:
        """Let go of hidden states that nobody took."""
        self._last = None

    def _keep(self, module: Any, inputs: Sequence[Any], states: list[torch.Tensor]) -> None:
        gates: GateValues = inputs[2]
        encoder, layer = self.upstream.encoder, self.upstream.layer
        # The layers above the one that is read are frozen.
        read = states if layer == -1 else states[: layer + 1]
        shown = [encoder.present(state, gates) for state in read]
        if encoder.output_positions is not None:
            shown = [state[..., encoder.output_positions] for state in shown]
        keep = gates.hidden.keep if gates.hidden is not None else None
        self._last = HiddenStates(shown, inputs[1][:, 0, 0], keep)


class Lesson:
    """What a student learns from the hidden states of a teacher.

    Args:
        student: the pruned upstream.
        teacher: the dense one that it comes from.
        layers: states that are compared, 0 being the input of the first Transformer layer;
            ``None`` for all that the student has.
        source: where the teacher comes from, for messages.
        distance: a key of :data:`.DISTANCES`.
        option: what messages call ``layers``.

    Raises:
        HJPruneError: the two upstreams do not belong together.
    """

    def __init__(
        self,
        student: SpeechUpstream,
        teacher: SpeechUpstream,
        layers: Sequence[int] | None,
        source: str,
        distance: str = "relative_l2",
        option: str = "distillation.layers",
    ) -> None:
        self.layers = list(layers or range(student.last_state + 1))
        self.distance = DISTANCES[distance]
        self.places = Resident(teacher_places(student, teacher, layers, source, option))
        self.recorders = [HiddenStateRecorder(upstream) for upstream in (student, teacher)]

    def loss(self, projections: Iterable[nn.Module] | None = None) -> torch.Tensor:
        """Distance of the states of the last forward passes of both.

        Args:
            projections: of the student's states to all features of the teacher, one for each of
                the layers; ``None`` to compare the features that the student has.
        """
        own, goal = (recorder.take() for recorder in self.recorders)
        states = [own.states[layer] for layer in self.layers]
        goals = [goal.states[layer] for layer in self.layers]
        if projections is not None:
            projected = [project(s) for project, s in zip(projections, states, strict=True)]
            return self.distance(projected, goals, own.inside)
        places = self.places.on(states[0].device)
        return self.distance(states, [g[..., places] for g in goals], own.inside, own.keep)

    def forget(self) -> None:
        """Let go of hidden states that are not compared."""
        for recorder in self.recorders:
            recorder.forget()


def teacher_places(
    student: SpeechUpstream,
    teacher: SpeechUpstream,
    layers: Sequence[int] | None,
    source: str,
    option: str = "distillation.layers",
) -> torch.Tensor:
    """Where the teacher has the hidden features of the student, ``(hidden of the student,)``.

    Raises:
        HJPruneError: the teacher lacks some of them or some of the states, or it is not known
            which ones the student has.
    """
    own, theirs = student.config, teacher.config
    if own.hidden_features is None and own.hidden_size < theirs.hidden_size:
        raise HJPruneError(
            f"the model does not know which {own.hidden_size} of the {theirs.hidden_size} "
            f"hidden features of the teacher {source} it has; compact it again (stage 5)"
            + (", or set distillation.hidden: 0" if option.startswith("distillation") else "")
        )
    known = {feature: place for place, feature in enumerate(theirs.dense_features)}
    counts = [len(config.heads) for config in (own, theirs)]
    read = [student.last_state, teacher.last_state]
    if counts[0] != counts[1] or not known.keys() >= set(own.dense_features):
        raise HJPruneError(
            f"the teacher {source} is not the model that the pruned one comes from: it has "
            f"{counts[1]} layers and {theirs.hidden_size} hidden features"
        )
    if layers is None and read[1] < read[0]:
        raise HJPruneError(
            f"the teacher {source} is read at layer {read[1]}, the model at {read[0]}; "
            f"set {option} to some from 0 to {read[1]}"
        )
    if max(layers or [0]) > min(read):
        raise HJPruneError(
            f"{option} has {max(layers or [0])}, but the last layer that is read is {min(read)}"
        )
    return torch.tensor([known[feature] for feature in own.dense_features])
