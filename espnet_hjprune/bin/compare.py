"""Compare what two models recognised: difference, its interval, and whether it means something.

A and B are directories of decoded sets (exp/asr_compact_x/decode_asr), files results.json, or
directories that hold one, such as a point of a sweep; results.json:0 is its unpruned model.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict

from espnet_hjprune.bin.cli import run_command
from espnet_hjprune.errors import HJPruneError
from espnet_hjprune.report.comparison import (
    HOW_COMPARED,
    TEST_NAMES,
    compared_on,
    difference_header,
    difference_row,
    estimate_text,
)
from espnet_hjprune.report.decoding import Decoding, find_decoding
from espnet_hjprune.report.results_md import METRICS, Metric, plain_table
from espnet_hjprune.scoring.significance import Comparison


def get_parser() -> argparse.ArgumentParser:
    """Options of the command."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("first", metavar="A", help="a decoded model")
    parser.add_argument("second", metavar="B", help="the model to compare with it")
    parser.add_argument("--test_set", nargs="+", help="sets to compare; default: those of both")
    parser.add_argument(
        "--metric", choices=list(METRICS), help="default: that of results.json, or wer"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """Print the comparison.

    Raises:
        HJPruneError: a model has no results, or the two have recognised other utterances.
    """
    args = get_parser().parse_args(argv)
    first, second = find_decoding(args.first), find_decoding(args.second)
    metric = _metric(args.metric, first, second)
    comparisons = {}
    for test_set in _test_sets(args.test_set, first, second):
        models = [first.alignments[test_set], second.alignments[test_set]]
        comparisons[test_set] = compared_on(test_set, models, metric).compare(0, 1)
    if args.json:
        print(json.dumps(_as_record(first, second, metric, comparisons), indent=2))
        return
    rows = [["set", "A", "B", *difference_header(metric)]]
    for test_set, comparison in comparisons.items():
        levels = [estimate_text(comparison.first), estimate_text(comparison.second)]
        rows.append([test_set, *levels, *difference_row(comparison)])
    print(f"A: {first.name}\nB: {second.name}\n\n{plain_table(rows)}\n{HOW_COMPARED}")


def _metric(name: str | None, first: Decoding, second: Decoding) -> Metric:
    """The metric that was asked for, or that the results have."""
    if name is not None:
        return METRICS[name]
    known = {one.metric.name: one.metric for one in (first, second) if one.metric is not None}
    if len(known) > 1:
        raise HJPruneError("A and B have other metrics than one another; give a --metric")
    return next(iter(known.values()), METRICS["wer"])


def _test_sets(wanted: list[str] | None, first: Decoding, second: Decoding) -> list[str]:
    """The sets to compare."""
    common = [name for name in first.alignments if name in second.alignments]
    if lacking := [name for name in wanted or [] if name not in common]:
        raise HJPruneError(
            f"--test_set has {lacking[0]}, but A and B were both decoded on "
            f"{', '.join(common) or 'no set'}"
        )
    if not common:
        raise HJPruneError(
            f"A was decoded on {', '.join(first.alignments)}, B on {', '.join(second.alignments)}; "
            "decode both on one set"
        )
    return wanted or common


def _as_record(
    first: Decoding, second: Decoding, metric: Metric, comparisons: dict[str, Comparison]
) -> dict[str, object]:
    """The comparison for programs to read; differences are B minus A, in percentage points."""
    return {
        "first": first.name,
        "second": second.name,
        "metric": {"name": metric.name, "higher_is_better": metric.higher_is_better},
        "test": TEST_NAMES[metric.higher_is_better],
        "test_sets": {name: asdict(comparison) for name, comparison in comparisons.items()},
    }


if __name__ == "__main__":
    run_command(main)
