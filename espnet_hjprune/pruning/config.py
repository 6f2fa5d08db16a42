"""Options of gated pruning."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from espnet_hjprune.constants import SAMPLE_RATE
from espnet_hjprune.errors import HJPruneError
from espnet_hjprune.options import build_dataclass, read_flag, read_number
from espnet_hjprune.target import Target, TargetLike

# Kinds of units that can be gated, in the order of their gates; the hidden size is the last one.
UNITS = ("conv", "head", "ffn", "attention_layer", "ffn_layer", "hidden")
# Those of the paper.
DEFAULT_UNITS = ("conv", "head", "ffn", "hidden")
# A gate of a whole layer's attention or FFN, and the units that are inside of it.
LAYER_UNITS = {"attention_layer": "head", "ffn_layer": "ffn"}
# Ways to score units without training gates.
SCORES = ("taylor", "magnitude")
CRITERIA = ("macs", "size", "sepsize", "latency")
STEPS = ("ramp_steps", "hold_steps", "rise_steps")
# Probabilities with which the gates do not change what a trained model has learned: its loss stays
# within 5 %. Channels and hidden size are in the way of everything and need more than the others.
INITIAL_KEEP = {
    "conv": 0.99999,
    "head": 0.9995,
    "ffn": 0.9995,
    "attention_layer": 0.9995,
    "ffn_layer": 0.9995,
    "hidden": 0.99999,
}


@dataclass
class PruningConfig:
    """What is pruned, how far, and how fast.

    Attributes:
        units: gated unit kinds: ``conv`` channels, attention ``head``s, ``ffn`` units, ``hidden``
            size; with ``attention_layer`` and ``ffn_layer`` also all heads of a layer together, and
            all its FFN units. None of them, with a target of 0, trains on without pruning: the
            control.
        criterion: ``macs``, ``size`` (parameters) or ``latency`` (measured seconds) of the whole
            encoder, or ``sepsize``, the parameters of CNN and Transformer apart (paper Eq. 9).
        latency_table: what tells the seconds of ``latency``: a file that ``hjprune measure`` made,
            the name of one that comes with the package, or what stands in such a file.
        target_sparsity: share of the cost to remove; for ``sepsize`` a mapping with ``cnn`` and
            ``transformer``, or any form that :meth:`.Target.parse` reads.
        earlier_targets: rising targets before ``target_sparsity``, each held for a while, so that
            one training gives a model for each of them.
        ramp_steps: optimiser steps over which the target rises linearly from 0.
        hold_steps: for which each of the earlier targets is held.
        rise_steps: over which the target rises from one of them to the next.
        initial_keep: probability that a gate is open at the start, one for all units or a mapping
            by kind, in which what is not named has that of :data:`INITIAL_KEEP`.
        log_alpha_limit: ``log_alpha`` is held between this and its negative after every step, as
            CoFi does at 4.6; 0 for no limit. Closed units then keep a share of the expected cost.
        gate_lr: learning rate of ``log_alpha``.
        lambda_lr: learning rate of the multipliers.
        damping: weight of a fixed quadratic penalty on the distance from the target, beside
            the learned multipliers; it damps their swing around the target.
        scores: the baseline: gates are not trained, but set once before the first step by scores of
            the units (:mod:`~espnet_hjprune.pruning.importance`), ``taylor`` or ``magnitude``, and
            the target holds from the start; empty for gates that are trained.
        allow_off_target: train also where the gates cannot reach the target in so many steps.
        beta: temperature of the hard-concrete distribution.
        stretch: its interval before clamping to [0, 1].
        seconds: virtual audio length for which MACs are counted.
        round_to: conv channels, FFN units and hidden size of the compact model are multiples of
            this; ``auto`` is measured on the device at hand where an upstream gets its gates.
        uniform: give all layers of the compact model equally many heads and FFN units, and a
            hidden size that is the heads' together, so that stock classes can hold it.
    """

    units: list[str] = field(default_factory=lambda: list(DEFAULT_UNITS))
    criterion: str = "macs"
    latency_table: str | Mapping[str, Any] = ""
    target_sparsity: TargetLike = 0.4
    earlier_targets: list[TargetLike] = field(default_factory=list)
    ramp_steps: int = 2230
    hold_steps: int = 0
    rise_steps: int = 0
    initial_keep: float | Mapping[str, float] = field(default_factory=dict)
    log_alpha_limit: float = 0.0
    gate_lr: float = 0.02
    lambda_lr: float = 0.02
    damping: float = 0.0
    scores: str = ""
    allow_off_target: bool = False
    beta: float = 2 / 3
    stretch: tuple[float, float] = (-0.1, 1.1)
    seconds: float = 10.0
    round_to: int | Literal["auto"] = 1
    uniform: bool = False

    def __post_init__(self) -> None:
        """Check every option."""
        if isinstance(self.units, str):
            self.units = self.units.replace(",", " ").split()
        if not isinstance(self.units, (list, tuple)):
            raise HJPruneError(f"pruning.units is {self.units}, not a list such as [head, ffn]")
        self.units = [unit for unit in UNITS if unit in self._known(self.units, UNITS, "units")]
        self._known([self.criterion], CRITERIA, "criterion")
        if (self.criterion == "latency") != bool(self.latency_table):
            raise HJPruneError(
                "pruning.latency_table goes with pruning.criterion latency; give both (hjprune "
                "measure makes a table) or neither"
            )
        self._check_targets()
        if self.scores:
            self._known([self.scores], SCORES, "scores")
            if self.earlier_targets:
                raise HJPruneError(
                    "pruning.scores sets the gates once, so that there is one target; leave "
                    "pruning.earlier_targets out"
                )
            self.ramp_steps = 0
        for name in (*STEPS, "gate_lr", "lambda_lr", "damping", "log_alpha_limit"):
            if getattr(self, name) < 0:
                raise HJPruneError(
                    f"pruning.{name} is {getattr(self, name)}; it cannot be negative"
                )
        try:
            low, high = (float(end) for end in self.stretch)
        except (TypeError, ValueError):
            raise HJPruneError(
                f"pruning.stretch is {self.stretch}, not two numbers such as [-0.1, 1.1]"
            ) from None
        self.stretch = (low, high)
        if not (low < 0 and high > 1):
            raise HJPruneError(
                "pruning.stretch must reach below 0 and above 1, as [-0.1, 1.1] does"
            )
        for name in ("beta", "seconds"):
            if getattr(self, name) <= 0:
                raise HJPruneError(f"pruning.{name} is {getattr(self, name)}; it must be positive")
        for name in ("allow_off_target", "uniform"):
            read_flag(getattr(self, name), f"pruning.{name}")
        if self.uniform and ("head" in self.units) != ("hidden" in self.units):
            raise HJPruneError(
                "pruning.uniform keeps the hidden size equal to that of all heads together; put "
                "both head and hidden into pruning.units, or neither"
            )
        if self.uniform and not LAYER_UNITS.keys().isdisjoint(self.units):
            raise HJPruneError(
                f"pruning.uniform keeps all layers alike, so that none can be closed; leave "
                f"{' and '.join(LAYER_UNITS)} out of pruning.units"
            )
        self._check_initial_keep()
        if self.round_to != "auto" and not (isinstance(self.round_to, int) and self.round_to > 0):
            raise HJPruneError(
                f"pruning.round_to is {self.round_to!r}; it must be a positive number or auto"
            )

    def _check_initial_keep(self) -> None:
        given = self.initial_keep
        if isinstance(given, Mapping):
            self._known(list(given), UNITS, "initial_keep")
            shares = {f"pruning.initial_keep.{unit}": share for unit, share in given.items()}
        else:
            shares = {"pruning.initial_keep": given}
        for option, share in shares.items():
            if not 0 < read_number(share, "float", option) < 1:
                raise HJPruneError(f"{option} is {share}; it must lie between 0 and 1")

    @property
    def keep_at_start(self) -> dict[str, float]:
        """Probability that a gate is open at the start, by kind of unit."""
        given = self.initial_keep
        if not isinstance(given, Mapping):
            return dict.fromkeys(UNITS, float(given))
        return INITIAL_KEEP | {unit: float(share) for unit, share in given.items()}

    def _check_targets(self) -> None:
        if not isinstance(self.earlier_targets, list):
            raise HJPruneError(
                f"pruning.earlier_targets is {self.earlier_targets}, not a list such as [0.2, 0.3]"
            )
        shares = [share for level in self.levels for share in level.values()]
        if not self.units and any(shares):
            raise HJPruneError(
                f"pruning.units is empty; choose among {', '.join(UNITS)}, or set "
                "pruning.target_sparsity to 0 to train on without pruning"
            )
        if self.units and not all(shares):
            raise HJPruneError(
                "pruning.target_sparsity is 0; it must lie between 0 and 1, unless pruning.units "
                "is empty"
            )
        before = dict.fromkeys(self.targets, 0.0)
        for number, level in enumerate(self.levels):
            last = number == len(self.earlier_targets)
            place = "target_sparsity" if last else f"earlier_targets[{number}]"
            for name, share in level.items():
                if share < before[name]:
                    option = f"{place}.{name}" if name else place
                    raise HJPruneError(
                        f"pruning.{option} is {share}, below the {before[name]} before it; give "
                        "rising targets"
                    )
            before = level

    @staticmethod
    def _known(names: list[str], known: tuple[str, ...], option: str) -> list[str]:
        unknown = [name for name in names if name not in known]
        if unknown:
            raise HJPruneError(
                f"pruning.{option} has no {', '.join(map(str, unknown))}; it takes "
                f"{', '.join(known)}"
            )
        return names

    @property
    def targets(self) -> dict[str, float]:
        """Target of every constraint; the single constraint's name is empty.

        Raises:
            HJPruneError: ``target_sparsity`` is no target, or of another form than the
                criterion's.
        """
        return self._by_constraint(self.target_sparsity, "target_sparsity")

    @property
    def levels(self) -> list[dict[str, float]]:
        """The targets of every constraint one after another, the final ones last.

        Raises:
            HJPruneError: one is no target, or of another form than the criterion's.
        """
        final = self.targets
        earlier = [
            self._by_constraint(target, f"earlier_targets[{number}]")
            for number, target in enumerate(self.earlier_targets)
        ]
        return [*earlier, final]

    def _by_constraint(self, target: TargetLike, option: str) -> dict[str, float]:
        return Target.parse(target, f"pruning.{option}", self.criterion).by_name()

    @property
    def alignment(self) -> int:
        """``round_to`` as a number.

        Raises:
            HJPruneError: it is ``auto`` and was not measured.
        """
        if self.round_to == "auto":
            raise HJPruneError(
                "pruning.round_to is auto, which only an upstream's add_gates measures; give a "
                "number such as 32"
            )
        return self.round_to

    @property
    def samples(self) -> int:
        """Samples of the virtual audio length."""
        return round(self.seconds * SAMPLE_RATE)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> PruningConfig:
        """Build from a mapping, as it stands in a YAML file.

        Raises:
            HJPruneError: an unknown option or a value out of range.
        """
        return build_dataclass(cls, values, "pruning")
