"""The finished points of a sweep as data for tables and figures."""

from __future__ import annotations

import itertools
import json
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from espnet_hjprune.errors import HJPruneError
from espnet_hjprune.report.results_json import recorded_alignments
from espnet_hjprune.scoring.alignment import Alignments
from espnet_hjprune.target import Target


@dataclass(frozen=True)
class SweptModel:
    """One decoded model of a sweep.

    Attributes:
        upstream: its name in the sweep.
        method: its name in the sweep; ``unpruned`` for what was pruned.
        target: what was to be removed; ``None`` if unpruned.
        macs: multiply-accumulates of the speech encoder.
        params: parameters of the speech encoder.
        macs_removed: share of the MACs.
        values: the metric in percent by test set.
        alignments: words of every utterance by test set; empty in results from before them.
        layers: units by kind and layer; empty if unpruned.
        latency: what :func:`.side_by_side` measured; ``None`` if it was not, or unpruned.
    """

    upstream: str
    method: str
    target: Target | None
    macs: float
    params: float
    macs_removed: float
    values: Mapping[str, float]
    alignments: Mapping[str, Alignments]
    layers: Mapping[str, Any]
    latency: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class SweptGroup:
    """Models that differ in their seed only, or the unpruned model.

    Attributes:
        models: the models.
    """

    models: tuple[SweptModel, ...]

    @property
    def method(self) -> str:
        """Name of their method."""
        return self.models[0].method

    @property
    def target(self) -> Target | None:
        """Their target; ``None`` for the unpruned model."""
        return self.models[0].target

    @property
    def label(self) -> str:
        """Method and target."""
        return self.method if self.target is None else f"{self.method} {self.target}"

    @property
    def macs_removed(self) -> float:
        """Mean share of MACs removed."""
        return statistics.fmean(model.macs_removed for model in self.models)

    @property
    def macs(self) -> float:
        """Mean MACs."""
        return statistics.fmean(model.macs for model in self.models)

    @property
    def params(self) -> float:
        """Mean parameters."""
        return statistics.fmean(model.params for model in self.models)

    def values(self, test_set: str) -> list[float]:
        """The metric of every model that was decoded on a set."""
        return [model.values[test_set] for model in self.models if test_set in model.values]

    def alignments(self, test_set: str) -> list[Alignments]:
        """Those of every model that was decoded on a set; none where one of these has none."""
        decoded = [model for model in self.models if test_set in model.values]
        found = [m.alignments[test_set] for m in decoded if test_set in m.alignments]
        return found if len(found) == len(decoded) else []

    def mean(self, test_set: str) -> float:
        """Mean of the metric on a set; there must be values."""
        return statistics.fmean(self.values(test_set))

    def deviation(self, test_set: str) -> float:
        """Sample standard deviation of the metric on a set; 0 for one model."""
        values = self.values(test_set)
        return statistics.stdev(values) if len(values) > 1 else 0.0


@dataclass(frozen=True)
class SweepRecord:
    """All finished points of a sweep.

    Attributes:
        metric: name of the metric.
        higher_is_better: its direction.
        seconds: length of audio that MACs are counted for.
        unpruned: what was pruned, by upstream. The models of one upstream are one and the same
            where all points were run on one machine.
        points: groups of pruned models by upstream, in the order of methods and targets.
    """

    metric: str
    higher_is_better: bool
    seconds: float
    unpruned: Mapping[str, SweptGroup]
    points: Mapping[str, list[SweptGroup]]

    @property
    def upstreams(self) -> list[str]:
        """Names of the upstreams."""
        return list(self.points)

    @property
    def test_sets(self) -> list[str]:
        """Names of the test sets; not every point need have all of them."""
        names: dict[str, None] = {}
        for group in [*self.unpruned.values(), *itertools.chain(*self.points.values())]:
            for model in group.models:
                names |= dict.fromkeys(model.values)
        return list(names)

    def methods(self, upstream: str) -> list[str]:
        """Methods that an upstream was pruned by."""
        return list(dict.fromkeys(group.method for group in self.points[upstream]))

    def of_method(
        self, upstream: str, method: str, test_set: str | None = None
    ) -> list[SweptGroup]:
        """Groups of a method by falling MACs, with a set only those that were decoded on it."""
        groups = [group for group in self.points[upstream] if group.method == method]
        if test_set is not None:
            groups = [group for group in groups if group.values(test_set)]
        return sorted(groups, key=lambda group: -group.macs)

    def curve(self, upstream: str, method: str) -> list[SweptGroup]:
        """What stands for a method beside others, by falling MACs.

        All its groups or, where they have separate targets, the Pareto front of these on the first
        test set, as the paper's Fig. 3 selects what its Figs. 1, 2 and 4 show.
        """
        groups = self.of_method(upstream, method)
        if not has_separate_targets(groups):
            return groups
        test_set = self.test_sets[0]
        shown = [group for group in groups if group.values(test_set)]
        return pareto_front(shown, test_set, self.higher_is_better)[::-1]


def read_swept_models(results: Iterable[tuple[str, str, Path]]) -> SweepRecord:
    """Read the ``results.json`` of points.

    Args:
        results: method, upstream and file of every point.

    Raises:
        HJPruneError: a file is missing or incomplete, or metrics differ.
    """
    unpruned: dict[str, list[SweptModel]] = {}
    pruned: dict[str, dict[tuple[str, Target], list[SweptModel]]] = {}
    kinds: set[tuple[str, bool, float]] = set()
    for method, upstream, path in results:
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
            dense, *compact = record["models"]
            metric = record["metric"]
            kinds.add((metric["name"], metric["higher_is_better"], record["seconds"]))
            unpruned.setdefault(upstream, []).append(
                _model(record, dense, upstream, "unpruned", None)
            )
            groups = pruned.setdefault(upstream, {})
            for entry in compact:
                target = Target.parse(entry["target_sparsity"])
                groups.setdefault((method, target), []).append(
                    _model(record, entry, upstream, method, target)
                )
        except FileNotFoundError:
            raise HJPruneError(f"{path} does not exist; run stage 7 of this point") from None
        except (ValueError, KeyError, TypeError) as error:
            raise HJPruneError(
                f"{path} is no results.json of stage 7 ({error!r}); remove it and run the sweep "
                "again"
            ) from None
    if len(kinds) > 1:
        raise HJPruneError(
            "the points of the sweep have other metrics than one another; remove those that were "
            "made before these options changed"
        )
    ((name, higher, seconds),) = kinds
    return SweepRecord(
        metric=name,
        higher_is_better=higher,
        seconds=seconds,
        unpruned={key: SweptGroup(_distinct(models)) for key, models in unpruned.items()},
        points={
            upstream: [SweptGroup(tuple(models)) for models in groups.values()]
            for upstream, groups in pruned.items()
        },
    )


def _model(
    record: Mapping[str, Any],
    entry: Mapping[str, Any],
    upstream: str,
    method: str,
    target: Target | None,
) -> SweptModel:
    """A model of ``results.json``."""
    return SweptModel(
        upstream=upstream,
        method=method,
        target=target,
        macs=entry["macs"],
        params=entry["params"],
        macs_removed=entry["macs_removed"],
        values=entry["values"],
        alignments=recorded_alignments(record, entry),
        layers=entry.get("layers", {}),
        latency=entry.get("latency"),
    )


def _distinct(models: Sequence[SweptModel]) -> tuple[SweptModel, ...]:
    """One model for each different result; one that was decoded on fewer sets is no other.

    Of equal results one with alignments stands for all.
    """
    found: list[SweptModel] = []
    for model in sorted(models, key=lambda m: (-len(m.values), -len(m.alignments))):
        if not any(model.values.items() <= other.values.items() for other in found):
            found.append(model)
    return tuple(found)


def has_separate_targets(groups: Iterable[SweptGroup]) -> bool:
    """Whether some are pruned to one target for each part of the encoder."""
    return any(group.target is not None and group.target.separate for group in groups)


def pareto_front(groups: Sequence[SweptGroup], test_set: str, higher: bool) -> list[SweptGroup]:
    """Groups that no other one beats in MACs and metric, by rising MACs."""
    front: list[SweptGroup] = []
    for group in sorted(groups, key=lambda g: (g.macs, -g.mean(test_set) * (1 if higher else -1))):
        best = front[-1].mean(test_set) if front else None
        value = group.mean(test_set)
        if best is None or (value > best if higher else value < best):
            front.append(group)
    return front
