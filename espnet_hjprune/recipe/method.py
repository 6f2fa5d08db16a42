"""The methods of the paper as options: what they set in the configuration of a pruning."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from espnet_hjprune.errors import HJPruneError, UsageError
from espnet_hjprune.model.espnet_config import plugin_options
from espnet_hjprune.pruning.config import DEFAULT_UNITS, SCORES, UNITS, PruningConfig
from espnet_hjprune.pruning.latency import read_table
from espnet_hjprune.target import SEPARATE, Target, parse_targets

# Method and the criterion that it sets; `transformer`, the paper's baseline, gates no channels, and
# `dense`, the control, gates nothing: it is trained for as many steps as the others. With `none`
# the model of stage 3 is the result. `taylor` and `magnitude` set gates once, by such scores.
METHODS = {
    "macs": "macs",
    "size": "size",
    "sepsize": SEPARATE,
    "transformer": "size",
    "latency": "latency",
    "dense": "macs",
    "none": "macs",
    "taylor": "macs",
    "magnitude": "macs",
}
UNPRUNED = ("dense", "none")
# The recipes' options that say the method.
METHOD_OPTIONS = ("method", "target_sparsity", "targets", "units", "latency_table")
TRANSFORMER_UNITS = [unit for unit in DEFAULT_UNITS if unit != "conv"]


@dataclass(frozen=True)
class Method:
    """How a pruning differs from its configuration; what is empty stays as configured.

    Attributes:
        name: one of :data:`METHODS`.
        targets: one target, or several rising ones for a model at each of them.
        units: gated units.
        latency_table: of the method ``latency``; others are only timed as it was made.
    """

    name: str = ""
    targets: tuple[Target, ...] = ()
    units: tuple[str, ...] = ()
    latency_table: str = ""

    @classmethod
    def from_options(
        cls,
        method: str = "",
        target_sparsity: str = "",
        targets: str = "",
        units: str = "",
        latency_table: str = "",
    ) -> Method:
        """Read the options of the recipes, all of them texts.

        Raises:
            UsageError: one is wrong, or they do not go together.
        """
        if method and method not in METHODS:
            *others, last = METHODS
            raise UsageError(f"--method is {', '.join(others)} or {last}, not '{method}'")
        if targets and target_sparsity:
            raise UsageError("--targets and --target_sparsity are both given; give one")
        for unit in units.split():
            if unit not in UNITS:
                raise UsageError(f"--units takes {', '.join(UNITS)}, not '{unit}'")
        chosen: tuple[Target, ...] = ()
        try:
            if targets:
                chosen = parse_targets(targets, "--targets")
            elif target_sparsity:
                criterion = METHODS.get(method)
                chosen = (Target.parse(target_sparsity, "--target_sparsity", criterion),)
        except HJPruneError as error:
            raise UsageError(str(error)) from None
        shares = [share for target in chosen for share in target.shares]
        if method in UNPRUNED:
            if units or any(shares):
                raise UsageError(
                    f"--method {method} removes nothing; leave --target_sparsity, --targets and "
                    "--units out"
                )
            return cls(method, (Target((0.0,)),))
        if not all(shares):
            option = "--targets" if targets else "--target_sparsity"
            raise UsageError(
                f"{option} is 0; it must lie between 0 and 1, or give --method dense, which "
                "removes nothing"
            )
        if targets and method in SCORES:
            raise UsageError(f"--method {method} sets gates once; give --target_sparsity")
        if targets and (METHODS.get(method) == SEPARATE or chosen[0].separate):
            raise UsageError("--targets are single numbers, not for --method sepsize")
        return cls(method, chosen, tuple(units.split()), latency_table)

    def apply(self, config: Mapping[str, Any], source: str | Path) -> dict[str, Any]:
        """The configuration of a pruning, with what the method sets.

        Args:
            config: configuration of a training whose upstream has the options ``pruning``.
            source: what errors call it.

        Raises:
            HJPruneError: the configuration has no pruning, or the method does not fit to it.
        """
        new = copy.deepcopy(dict(config))
        conf = plugin_options(new, source)
        if not isinstance(conf.get("pruning"), dict):
            raise HJPruneError(f"{source} has no options pruning in the upstream's; add them")
        pruning: dict[str, Any] = conf["pruning"]
        if self.name:
            pruning["criterion"] = METHODS[self.name]
            if self.name != "latency":
                pruning.pop("latency_table", None)
        if self.latency_table and pruning.get("criterion") == "latency":
            # The table itself: its file may change, or stay behind.
            pruning["latency_table"] = read_table(self.latency_table).to_dict()
        if self.name in SCORES:
            pruning["scores"] = self.name
        elif self.name:
            pruning.pop("scores", None)
        if pruning.get("criterion") == "latency" and not pruning.get("latency_table"):
            raise UsageError("--method latency needs --latency_table; hjprune measure makes one")
        if self.units:
            pruning["units"] = list(self.units)
        if self.name == "transformer":
            units = pruning.get("units", list(DEFAULT_UNITS))
            pruning["units"] = [unit for unit in units if unit != "conv"]
        if self.name in UNPRUNED:
            pruning["units"] = []
        if self.targets:
            *earlier, last = self.targets
            pruning["target_sparsity"] = _plain(last)
            pruning.pop("earlier_targets", None)
            if earlier:
                pruning["earlier_targets"] = [_plain(target) for target in earlier]
        elif self.name and (METHODS[self.name] == SEPARATE) != _is_separate(pruning):
            form = "one number"
            if self.name == SEPARATE:
                form = "a share for each part, such as 'cnn=0.6 transformer=0.3'"
            raise UsageError(f"--method {self.name} needs --target_sparsity with {form}")
        return new


def method_name(pruning: PruningConfig) -> str:
    """The method that a pruning is, as one of :data:`METHODS`."""
    if not pruning.units:
        return "dense"
    if pruning.scores:
        return pruning.scores
    if pruning.criterion == "size" and pruning.units == TRANSFORMER_UNITS:
        return "transformer"
    return pruning.criterion


def _plain(target: Target) -> float | dict[str, float]:
    """A target as YAML has it."""
    shares = target.by_name()
    return dict(shares) if target.separate else shares[""]


def _is_separate(pruning: Mapping[str, Any]) -> bool:
    value = pruning.get("target_sparsity", 0.4)
    return isinstance(value, Mapping) or "=" in str(value)
