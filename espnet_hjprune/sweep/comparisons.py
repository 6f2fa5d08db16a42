"""Which models of a sweep differ: each from the unpruned one, and methods of similar MACs."""

from __future__ import annotations

import itertools
import logging

from espnet_hjprune.report.comparison import HOW_COMPARED, TEST_NAMES, difference_text, p_text
from espnet_hjprune.report.results_md import Rows
from espnet_hjprune.scoring.alignment import Alignments
from espnet_hjprune.scoring.significance import ComparedSystems
from espnet_hjprune.sweep.record import SweepRecord, SweptGroup

# How much two groups' MACs may differ, as a share of the larger, for methods to be compared there.
SIMILAR = 0.05


def comparison_table(record: SweepRecord, upstream: str) -> Rows:
    """Rows of the differences of an upstream's groups; none where nothing can be compared.

    Every group is compared with the unpruned model. Of two methods, those groups are compared
    whose MACs are nearest to each other's and differ by 5 % at most; of separate targets, those of
    the Pareto front. The errors of all seeds of a group are resampled together.
    """
    compared = {}
    for test_set in record.test_sets:
        if any(group.alignments(test_set) for group in record.points[upstream]):
            compared[test_set] = _compared(record, upstream, test_set)
    header = ["first", "second", "GMACs"]
    p_title = f"p ({TEST_NAMES[record.higher_is_better]})"
    for test_set in compared:
        header += [f"{test_set} {record.metric}, second minus first", p_title]
    rows = []
    for first, second in _pairs(record, upstream):
        cells: list[str] = []
        for systems, places in compared.values():
            if not {first.label, second.label} <= places.keys():
                cells += ["-", "-"]
                continue
            comparison = systems.compare(places[first.label], places[second.label])
            cells += [difference_text(comparison.difference), p_text(comparison.p_value)]
        if set(cells) - {"-"}:
            macs = f"{first.macs / 1e9:.3g}, {second.macs / 1e9:.3g}"
            rows.append([first.label, second.label, macs, *cells])
    return [header, *rows] if rows else []


def comparison_note(record: SweepRecord) -> str:
    """What the tables of differences mean, and what they leave out."""
    groups = list(itertools.chain(*record.points.values()))
    models = [model for group in groups for model in group.models]
    old = sum(not model.alignments for model in models)
    if old == len(models):
        return (
            "Differences are not compared utterance by utterance: these results are from before "
            "alignments were kept in results.json."
        )
    text = (
        f"{HOW_COMPARED} Methods are compared where their MACs differ by {100 * SIMILAR:g} % at "
        "most. The errors of several seeds are averaged by utterance and resampled together; a "
        "p-value is for one model against one. Models that were not decoded on a set, or on other "
        "utterances, are not compared on it."
    )
    if old:
        text += (
            f" {old} of {len(models)} pruned models are not compared: their results are from "
            "before alignments were kept in results.json."
        )
    return text


def _pairs(record: SweepRecord, upstream: str) -> list[tuple[SweptGroup, SweptGroup]]:
    """What is compared with what."""
    unpruned, methods = record.unpruned[upstream], record.methods(upstream)
    pairs = [
        (unpruned, group) for method in methods for group in record.of_method(upstream, method)
    ]
    for one, other in itertools.combinations(methods, 2):
        ours, theirs = record.curve(upstream, one), record.curve(upstream, other)
        for group in ours if theirs else []:
            nearest = _nearest(group, theirs)
            if _nearest(nearest, ours) is group and _similar(group, nearest):
                pairs.append((group, nearest))
    return pairs


def _nearest(group: SweptGroup, others: list[SweptGroup]) -> SweptGroup:
    return min(others, key=lambda other: abs(other.macs - group.macs))


def _similar(one: SweptGroup, other: SweptGroup) -> bool:
    return abs(one.macs - other.macs) <= SIMILAR * max(one.macs, other.macs)


def _compared(
    record: SweepRecord, upstream: str, test_set: str
) -> tuple[ComparedSystems, dict[str, int]]:
    """The groups that recognised the same utterances, and their places by label.

    Some group must have alignments of the set.
    """
    systems: list[list[Alignments]] = []
    places: dict[str, int] = {}
    for group in [record.unpruned[upstream], *record.points[upstream]]:
        models = group.alignments(test_set)
        if not models:
            continue
        reference = systems[0][0] if systems else models[0]
        if not all(reference.is_of_same_set(model) for model in models):
            logging.warning(
                "%s of %s was decoded on other utterances of %s than the models before it and is "
                "not compared",
                group.label,
                upstream,
                test_set,
            )
            continue
        places[group.label] = len(systems)
        systems.append(models)
    return ComparedSystems(systems, record.higher_is_better), places
