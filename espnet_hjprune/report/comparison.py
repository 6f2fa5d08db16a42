"""Which differences between decoded models mean something, as tables."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from espnet_hjprune.errors import HJPruneError
from espnet_hjprune.markdown import markdown_table
from espnet_hjprune.report.results_md import DecodedModel, Metric, Rows
from espnet_hjprune.scoring.alignment import Alignments
from espnet_hjprune.scoring.significance import (
    CONFIDENCE,
    RESAMPLES,
    ComparedSystems,
    Comparison,
    Estimate,
)

# Models up to which each is compared with each; of more, all with the first.
FEW = 6
# What holds for every table of differences.
HOW_COMPARED = (
    f"Intervals are those of {CONFIDENCE} % by a paired bootstrap over utterances "
    f"({RESAMPLES:,} resamples); * marks a difference whose interval leaves out 0. Of many "
    "comparisons some are marked by chance, one in twenty where there is no difference. Intervals "
    "say what other utterances would change, not what another seed would, and take utterances for "
    "independent, those of one speaker too."
)
TEST_NAMES = {False: "MAPSSWE", True: "McNemar's test"}


def estimate_text(estimate: Estimate) -> str:
    """A figure with its interval, as ``8.44 [6.98, 9.91]``."""
    return f"{estimate.value:.2f} [{estimate.low:.2f}, {estimate.high:.2f}]"


def difference_text(difference: Estimate) -> str:
    """A signed figure with its interval and, where that leaves out 0, a mark."""
    # Adding 0 makes 0 of what is rounded to minus 0.
    value, low, high = (
        round(x, 2) + 0.0 for x in (difference.value, difference.low, difference.high)
    )
    mark = " *" if difference.low > 0 or difference.high < 0 else ""
    return f"{value:+.2f} [{low:+.2f}, {high:+.2f}]{mark}"


def p_text(p_value: float | None) -> str:
    """A p-value with three digits; ``-`` for none."""
    if p_value is None:
        return "-"
    return "< 0.001" if p_value < 0.001 else f"{p_value:.3f}"


def difference_row(comparison: Comparison) -> list[str]:
    """Cells of a comparison: difference, share of resamples with the second better, p-value."""
    share = f"{100 * comparison.better:.1f} %"
    return [difference_text(comparison.difference), share, p_text(comparison.p_value)]


def difference_header(metric: Metric) -> list[str]:
    """Header of the cells of :func:`difference_row`."""
    test = TEST_NAMES[metric.higher_is_better]
    return [f"{metric.name}, second minus first", "resamples with the second better", f"p ({test})"]


def compared_on(test_set: str, models: Sequence[Alignments], metric: Metric) -> ComparedSystems:
    """Compare single models on a test set, which errors name.

    Raises:
        HJPruneError: two models have recognised other utterances of the set.
    """
    try:
        return ComparedSystems([[model] for model in models], metric.higher_is_better)
    except HJPruneError as error:
        raise HJPruneError(f"{test_set}: {error}") from None


def comparison_section(models: Sequence[DecodedModel], metric: Metric) -> str:
    """Return the part of RESULTS.md with intervals, and differences of pairs of models.

    Args:
        models: the unpruned model, then the compact ones; all were decoded on the same sets.
        metric: figure of merit.

    Raises:
        HJPruneError: two models have recognised other utterances of a set.
    """
    intervals: Rows = [["model"], *([model.name] for model in models)]
    differences: Rows = [["set", "first", "second", *difference_header(metric)]]
    pairs = list(itertools.combinations(range(len(models)), 2))
    note = HOW_COMPARED
    if len(models) > FEW:
        pairs = [pair for pair in pairs if pair[0] == 0]
        note += " `hjprune compare` compares any other two models."
    for test_set in models[0].alignments:
        compared = compared_on(test_set, [model.alignments[test_set] for model in models], metric)
        intervals[0].append(f"{test_set} {metric.name} (%)")
        for place, row in enumerate(intervals[1:]):
            row.append(estimate_text(compared.estimate(place)))
        for first, second in pairs:
            names = [models[first].name, models[second].name]
            cells = difference_row(compared.compare(first, second))
            differences.append([test_set, *names, *cells])
    parts = ["## Significance\n", markdown_table(intervals)]
    if pairs:
        parts.append(markdown_table(differences))
    return "\n".join([*parts, note + "\n"])
