"""How far the hidden states of pruned models are from those of the dense model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch

from espnet_hjprune.model.hidden_states import HiddenStateRecorder, teacher_places
from espnet_hjprune.model.upstream import SpeechUpstream

# Added to the diagonal of the normal equations, relative to its mean, so that features which depend
# on each other have a solution.
RIDGE = 1e-8


@dataclass(frozen=True)
class Distances:
    """Distances of one model on one set, by hidden state; 0 is the input of the first layer.

    Attributes:
        relative_l2: squared distance of the features that the model has left, over the teacher's
            squares, as the loss ``relative_l2`` has it.
        unexplained: share of the variance of *all* features of the teacher that the best linear
            map of the model's state does not give. It compares models that have different features
            left, and such as were trained with projections.
    """

    relative_l2: list[float]
    unexplained: list[float]


@dataclass
class StateSums:
    """Sums over frames of one hidden state of a model, in float64; those of a linear regression.

    Attributes:
        squared_error: squares of the distance on the features that are left.
        kept_squares: squares of these features of the teacher.
        all_squares: squares of all features of the teacher.
        own: ``(width + 1, width + 1)``, products of the model's features and 1 with each other.
        both: ``(width + 1, width of the teacher)``, the same with the teacher's features.
    """

    squared_error: float = 0.0
    kept_squares: float = 0.0
    all_squares: float = 0.0
    own: torch.Tensor = field(default_factory=lambda: torch.zeros((), dtype=torch.float64))
    both: torch.Tensor = field(default_factory=lambda: torch.zeros((), dtype=torch.float64))

    def add(self, state: torch.Tensor, goal: torch.Tensor, places: torch.Tensor) -> None:
        """Take frames into account.

        Args:
            state: ``(frames, width)``.
            goal: of the teacher, ``(frames, width of the teacher)``.
            places: ``(width,)``, where the teacher has the model's features.
        """
        state, goal = state.double(), goal.double()
        kept = goal[:, places]
        self.squared_error += (state - kept).square().sum().item()
        self.kept_squares += kept.square().sum().item()
        self.all_squares += goal.square().sum().item()
        with_one = torch.cat([state, state.new_ones(len(state), 1)], 1)
        self.own = self.own.to(state.device) + with_one.T @ with_one
        self.both = self.both.to(state.device) + with_one.T @ goal

    def linear_map(self) -> torch.Tensor:
        """The map ``(width + 1, width of the teacher)`` with the least squared error."""
        size = len(self.own)
        ridge = RIDGE * self.own.diagonal().mean() * torch.eye(size).to(self.own)
        solution: torch.Tensor = torch.linalg.solve(self.own + ridge, self.both)
        return solution

    def unexplained(self, linear_map: torch.Tensor) -> float:
        """Share of the variance of the teacher's features that a linear map does not give."""
        frames, total = self.own[-1, -1], self.both[-1]
        variance = self.all_squares - total.square().sum() / frames
        error = self.all_squares - 2 * (linear_map * self.both).sum()
        error += (linear_map * (self.own @ linear_map)).sum()
        return float(error / variance)


class StateComparison:
    """Compares models with their teacher on sets of utterances.

    Args:
        teacher: the dense upstream.
        models: the pruned ones, by name.
        source: where the teacher comes from, for messages.

    Raises:
        HJPruneError: a model does not come from the teacher.

    Example:
        >>> comparison = StateComparison(dense, {"pruned": small}, "exp/dense")
        >>> for wave in valid_waves: comparison.add("dev", wave)
        >>> for wave in test_waves: comparison.add("test", wave)
        >>> comparison.distances("test", "pruned", fitted_on="dev").unexplained[-1]
        0.08
    """

    def __init__(
        self, teacher: SpeechUpstream, models: Mapping[str, SpeechUpstream], source: str
    ) -> None:
        self.teacher, self.models = teacher.eval(), dict(models)
        self.places = {
            name: teacher_places(model.eval(), teacher, None, source)
            for name, model in models.items()
        }
        self._goals = HiddenStateRecorder(teacher)
        self._states = {name: HiddenStateRecorder(model) for name, model in models.items()}
        self._sums: dict[tuple[str, str], list[StateSums]] = {}

    @torch.inference_mode()
    def add(self, name: str, wave: torch.Tensor) -> None:
        """Take an utterance ``(samples,)`` at 16 kHz into account, as one of the set ``name``."""
        batch, lengths = wave.unsqueeze(0), torch.tensor([len(wave)], device=wave.device)
        self.teacher(batch, lengths)
        goals = self._goals.take()
        for model, recorder in self._states.items():
            self.models[model](batch, lengths)
            states = recorder.take().states
            sums = self._sums.setdefault((name, model), [StateSums() for _ in states])
            places = self.places[model].to(wave.device)
            for layer, state in enumerate(states):
                sums[layer].add(state[0], goals.states[layer][0], places)

    def frames_per_feature(self, name: str) -> float:
        """Frames of a set for each feature of the widest model, for linear maps that are fitted."""
        frames = [float(self._sums[name, model][0].own[-1, -1]) for model in self.models]
        widths = [model.config.hidden_size for model in self.models.values()]
        return min(frames) / max(widths)

    def distances(self, name: str, model: str, fitted_on: str) -> Distances:
        """Distances of a model on a set; the linear maps are those of another one.

        Args:
            name: the set.
            model: name of the model.
            fitted_on: the set that the linear maps are fitted to.
        """
        sums, fitted = self._sums[name, model], self._sums[fitted_on, model]
        return Distances(
            [part.squared_error / part.kept_squares for part in sums],
            [
                part.unexplained(other.linear_map())
                for part, other in zip(sums, fitted, strict=True)
            ],
        )
