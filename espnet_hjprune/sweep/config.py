"""What a sweep runs: grids of methods, targets, upstreams and seeds."""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from espnet_hjprune.config_file import read_config
from espnet_hjprune.errors import HJPruneError
from espnet_hjprune.options import build_dataclass
from espnet_hjprune.recipe.method import METHODS
from espnet_hjprune.target import PARTS, Target, parse_targets

# The recipe's, where a method of the sweep names no other.
DEFAULT_METHOD = "macs"
# What makes a pruning another one, beside its target, upstream and seed.
PRUNING_OPTIONS = ("prune_config", "units", "distill")
LAUNCHERS = ("local", "slurm")
# What a result from elsewhere needs.
_GIVEN = ("name", "upstream", "test_set", "gmacs", "value", "source")
# What the sweep itself says to the recipe.
OWN_OPTIONS = ("stage", "stop_stage", "target_sparsity", "targets", "seed", "results_copy")


@dataclass
class Grid:
    """Every method with every target, upstream and seed.

    Attributes:
        methods: names of the sweep's methods.
        targets: one target each, or several rising ones for a curve from one pruning, which YAML
            has as ``0.4``, as ``cnn=0.5 transformer=0.3`` or as ``0.2 0.3 0.4``. Lists of ``cnn``
            and ``transformer`` in their place stand for all pairs.
        upstreams: names of the sweep's upstreams; empty for all.
        seeds: seeds of pruning and final fine-tuning; empty for the configured one.
    """

    methods: list[str]
    targets: list[tuple[Target, ...]]
    upstreams: list[str] = field(default_factory=list)
    seeds: list[int] = field(default_factory=list)


@dataclass(frozen=True)
class GivenPoint:
    """A result from elsewhere that is drawn beside those of the sweep.

    Attributes:
        name: what it is called.
        upstream: name of the upstream in the sweep whose figure shows it.
        test_set: name of the test set.
        gmacs: MACs of the model for the length of audio that the sweep's are counted for, in 1e9.
        value: the metric, in percent.
        source: where the figures are from.
    """

    name: str
    upstream: str
    test_set: str
    gmacs: float
    value: float
    source: str


@dataclass(frozen=True)
class Point:
    """One pruned model of a sweep.

    Attributes:
        method: its name in the sweep.
        targets: its target; several rising ones for a curve from one pruning.
        upstream: its name in the sweep.
        seed: of pruning and final fine-tuning; ``None`` for the configured one.
        options: options of the recipe.
    """

    method: str
    targets: tuple[Target, ...]
    upstream: str
    seed: int | None
    options: tuple[tuple[str, str], ...]

    @property
    def target(self) -> str:
        """The targets as the recipe's options ``target_sparsity`` and ``targets`` have them."""
        return _text(self.targets)

    @property
    def name(self) -> str:
        """Name of the point, also that of its directory."""
        parts = [self.upstream, self.method, re.sub(r"[= ]", "_", self.target)]
        return "-".join(parts if self.seed is None else [*parts, f"seed{self.seed}"])


@dataclass
class SweepConfig:
    """A sweep.

    Attributes:
        name: of the sweep; its directory is ``exp/sweep_<name>`` beside the recipe.
        grids: what is run, each combination once.
        methods: options of the recipe for every method.
        upstreams: options of the recipe for every upstream; empty for the recipe's own.
        options: options of the recipe for all points.
        recipe: the recipe's script; relative to the working directory.
        launcher: ``local``, or ``slurm`` for jobs of a cluster.
        parallel: points that run at once.
        slurm: parameters of the jobs, as submitit names them, such as ``slurm_partition``.
        given: results from elsewhere to draw beside those of the sweep.
    """

    name: str
    grids: list[Grid]
    methods: dict[str, dict[str, Any]]
    upstreams: dict[str, dict[str, Any]] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)
    recipe: str = "run.sh"
    launcher: str = "local"
    parallel: int = 1
    slurm: dict[str, Any] = field(default_factory=dict)
    given: list[GivenPoint] = field(default_factory=list)

    @classmethod
    def read(cls, path: str | Path) -> SweepConfig:
        """Read a sweep from a YAML file.

        Raises:
            HJPruneError: the file is missing or no sweep, with what is wrong in it.
        """
        values = read_config(path)
        for name in ("name", "grids", "methods"):
            if not values.get(name):
                raise HJPruneError(f"{path} has no {name}")
        config = build_dataclass(cls, values, str(path))
        for name in ("methods", "upstreams"):
            _check_named_options(getattr(config, name), f"{path}: {name}")
        _check_options(config.options, f"{path}: options")
        if not isinstance(config.grids, list):
            raise HJPruneError(f"{path}: grids is a list of grids, each with methods and targets")
        config.grids = [
            _read_grid(grid, f"{path}: grids[{number}]", config)
            for number, grid in enumerate(config.grids)
        ]
        config.given = _read_given(config.given, f"{path}: given", config)
        config._check_names(path)
        if not re.fullmatch(r"[\w.-]+", str(config.name)):
            raise HJPruneError(f"{path}: name is '{config.name}'; it makes the name of a directory")
        if config.launcher not in LAUNCHERS:
            raise HJPruneError(
                f"{path}: launcher is {config.launcher!r}; it is {' or '.join(LAUNCHERS)}"
            )
        return config

    def _check_names(self, path: str | Path) -> None:
        """Two points must not make the same experiment, nor one method the same target twice."""
        experiments: dict[tuple[str, ...], str] = {}
        made: dict[tuple[str, str, int | None, Target], str] = {}
        for point in self.points():
            options = dict(point.options)
            made_by = (options.get(name, "") for name in PRUNING_OPTIONS)
            upstream = options.get("upstream_tag") or options.get("upstream", "")
            key = (_method(options), *made_by, upstream, point.target, str(point.seed))
            other = experiments.setdefault(key, point.name)
            if other != point.name:
                raise HJPruneError(
                    f"{path}: {other} and {point.name} would be one experiment of the recipe; give "
                    "each method another --method or prune_config, and each upstream an "
                    "upstream_tag"
                )
            for target in point.targets:
                single = (point.method, point.upstream, point.seed, target)
                if made.setdefault(single, point.target) != point.target:
                    raise HJPruneError(
                        f"{path}: {point.method} has the target {target} both in "
                        f"'{made[single]}' and in '{point.target}'; make them two methods"
                    )

    def points(self) -> list[Point]:
        """All points, each once, in the order of the grids."""
        found: dict[str, Point] = {}
        for grid in self.grids:
            upstreams = grid.upstreams or self.upstream_names()
            seeds: list[int | None] = [*grid.seeds] or [None]
            for upstream, method, targets, seed in itertools.product(
                upstreams, grid.methods, grid.targets, seeds
            ):
                options = self.upstream_options(upstream) | _as_text(self.methods[method])
                option = "targets" if len(targets) > 1 else "target_sparsity"
                options[option] = _text(targets)
                if seed is not None:
                    options["seed"] = str(seed)
                point = Point(method, targets, upstream, seed, tuple(options.items()))
                found.setdefault(point.name, point)
        return list(found.values())

    def upstream_names(self) -> list[str]:
        """Names of all upstreams; the recipe's own is called ``upstream``."""
        return list(self.upstreams) or ["upstream"]

    def upstream_options(self, upstream: str) -> dict[str, str]:
        """Options of the recipe for all points of an upstream."""
        return _as_text(self.options) | _as_text(self.upstreams.get(upstream, {}))


def _text(targets: Sequence[Target]) -> str:
    """What :func:`~espnet_hjprune.target.parse_targets` reads."""
    return " ".join(map(str, targets))


def _method(options: Mapping[str, Any]) -> str:
    """The recipe's method; ``criterion`` is what the option was called before."""
    return str(options.get("method", options.get("criterion", DEFAULT_METHOD)))


def _as_text(options: Mapping[str, Any]) -> dict[str, str]:
    """Options as the shell takes them."""
    return {
        name: str(value).lower() if isinstance(value, bool) else str(value)
        for name, value in options.items()
    }


def _check_named_options(values: Any, option: str) -> None:
    """Check options of the recipe by name of a method or upstream."""
    if not isinstance(values, Mapping):
        raise HJPruneError(f"{option} has lines 'name: {{option: value}}'")
    for name, options in values.items():
        if not re.fullmatch(r"\w+", str(name)):
            raise HJPruneError(f"{option} has the name '{name}'; use letters, digits and _")
        _check_options(options, f"{option}.{name}")


def _check_options(options: Any, option: str) -> None:
    """Check options of the recipe; ``option`` is what errors call them."""
    if not isinstance(options, Mapping):
        raise HJPruneError(f"{option} is {options!r}, but has lines 'option: value' of the recipe")
    for name, value in options.items():
        if name in OWN_OPTIONS:
            raise HJPruneError(f"{option}.{name}: the sweep sets this option; remove it")
        if value is None or isinstance(value, list | dict):
            raise HJPruneError(f"{option}.{name} must be a text, a number, true or false")


def _read_grid(values: Any, option: str, config: SweepConfig) -> Grid:
    """Read a grid, whose targets must have the form that its methods' criteria take."""
    for name in ("methods", "targets"):
        if not isinstance(values, Mapping) or not values.get(name):
            raise HJPruneError(f"{option} has no {name}")
    values = dict(values)
    if isinstance(values["targets"], Mapping):
        values["targets"] = _all_pairs(values["targets"], f"{option}.targets")
    for name in ("methods", "targets", "upstreams", "seeds"):
        if not isinstance(values.get(name, []), list):
            raise HJPruneError(f"{option}.{name} is a list, such as [{values[name]}]")
    targets = [
        parse_targets(written, f"{option}.targets[{number}]")
        for number, written in enumerate(values["targets"])
    ]
    grid = build_dataclass(Grid, values | {"targets": targets}, option)
    for name, known in (("methods", config.methods), ("upstreams", config.upstreams)):
        unknown = [str(value) for value in getattr(grid, name) if str(value) not in known]
        if unknown:
            raise HJPruneError(
                f"{option}.{name} has {', '.join(unknown)}, but {name} of the sweep are "
                f"{', '.join(known) or 'none'}"
            )
    for method in grid.methods:
        criterion = METHODS.get(_method(config.methods[method]))
        for target in itertools.chain(*grid.targets):
            Target.parse(target, f"{option}.targets for {method}", criterion)
    if not all(isinstance(seed, int) and seed >= 0 for seed in grid.seeds):
        raise HJPruneError(f"{option}.seeds are whole numbers from 0, not {grid.seeds}")
    return grid


def _all_pairs(values: Mapping[Any, Any], option: str) -> list[dict[str, Any]]:
    """Separate targets of all pairs of the parts' shares, the last part's changing least often."""
    lists = [values.get(part) for part in PARTS]
    if set(values) != set(PARTS) or not all(isinstance(one, list) and one for one in lists):
        raise HJPruneError(
            f"{option} is a list of targets, or has a list of shares for each of {', '.join(PARTS)}"
        )
    return [
        dict(zip(reversed(PARTS), shares, strict=True))
        for shares in itertools.product(*reversed(lists))
    ]


def _read_given(values: Any, option: str, config: SweepConfig) -> list[GivenPoint]:
    """Read results from elsewhere."""
    if not isinstance(values, list):
        raise HJPruneError(f"{option} is a list of points, each with {', '.join(_GIVEN)}")
    points = []
    for number, value in enumerate(values):
        name = f"{option}[{number}]"
        lacking = [key for key in _GIVEN if not isinstance(value, Mapping) or key not in value]
        if lacking:
            raise HJPruneError(f"{name} has no {lacking[0]}; it needs {', '.join(_GIVEN)}")
        point = build_dataclass(GivenPoint, value, name)
        if point.upstream not in config.upstream_names():
            raise HJPruneError(
                f"{name}.upstream is {point.upstream}, but upstreams of the sweep are "
                f"{', '.join(config.upstream_names())}"
            )
        points.append(point)
    return points
