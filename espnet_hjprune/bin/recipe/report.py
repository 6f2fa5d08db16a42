"""Write RESULTS.md and the figures of a pruned model, and print the table of cost and quality."""

from __future__ import annotations

import argparse
import json
import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from espnet_hjprune.atomic import write_text
from espnet_hjprune.bin.cli import run_command
from espnet_hjprune.errors import HJPruneError
from espnet_hjprune.report.comparison import comparison_section
from espnet_hjprune.report.results_json import result_record
from espnet_hjprune.report.results_md import (
    METRICS,
    Image,
    latency_note,
    method_name,
    plain_table,
    project_table,
    read_model,
    read_summary,
    render,
    target_table,
    timing_note,
)


def get_parser() -> argparse.ArgumentParser:
    """Return the command-line parser."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--output", required=True, type=Path, help="RESULTS.md to write")
    parser.add_argument(
        "--prune_exp",
        default=[],
        action="append",
        type=Path,
        help="experiment of the gated pruning (stage 4), once for each --summary",
    )
    parser.add_argument(
        "--summary",
        default=[],
        action="append",
        type=Path,
        help="summary.json of the compaction (stage 5), once for each compact model",
    )
    parser.add_argument(
        "--model",
        required=True,
        action="append",
        metavar="NAME=EXP",
        help="a decoded model: first the unpruned one, then a compact one for each --summary",
    )
    parser.add_argument("--decode_tag", required=True, help="directory of the decoded sets in EXP")
    parser.add_argument("--test_sets", required=True, nargs="+", help="names of the decoded sets")
    parser.add_argument("--metric", choices=list(METRICS), default="wer", help="for the table")
    parser.add_argument(
        "--data_dir", type=Path, help="has SET/text with the true labels; for --metric accuracy"
    )
    parser.add_argument(
        "--json", nargs="+", default=[], type=Path, help="files for the same figures as JSON"
    )
    parser.add_argument("--title", default="RESULTS", help="headline of RESULTS.md")
    return parser


def _name_and_exp(model: str) -> tuple[str, Path]:
    """Split ``NAME=EXP``."""
    name, found, exp_dir = model.partition("=")
    if not (name and found and exp_dir):
        raise HJPruneError(f"--model '{model}' is not of the form NAME=EXP; write both")
    if not Path(exp_dir).is_dir():
        raise HJPruneError(f"--model '{model}': {exp_dir} is no directory; train the model first")
    return name, Path(exp_dir)


def summarise_dense(config: Path) -> dict[str, Any]:
    """What the summary of a compaction says of the dense model, where nothing was compacted.

    Raises:
        HJPruneError: the file does not describe an architecture.
    """
    # Imported here, as they take torch.
    from espnet_hjprune.model.espnet_config import read_architecture
    from espnet_hjprune.model.summary import unpruned_summary

    return unpruned_summary(read_architecture(config))


def main(argv: Sequence[str] | None = None) -> None:
    """Write and print the report.

    Raises:
        HJPruneError: options that do not fit together, or results that are missing.
    """
    args = get_parser().parse_args(argv)
    test_sets = [name for group in args.test_sets for name in group.split()]
    if not test_sets:
        raise HJPruneError("--test_sets is empty; name the decoded sets")
    if not len(args.model) - 1 == len(args.summary) == len(args.prune_exp):
        raise HJPruneError(
            f"{len(args.model)} --model, {len(args.summary)} --summary and {len(args.prune_exp)} "
            "--prune_exp do not fit: give the unpruned model first, then one --model, one "
            "--summary and one --prune_exp for each compact model"
        )
    references = {}
    if args.metric == "accuracy":
        if args.data_dir is None:
            raise HJPruneError("--metric accuracy needs --data_dir with the true labels")
        references = {test_set: args.data_dir / test_set / "text" for test_set in test_sets}
    summaries = [read_summary(path) for path in args.summary]
    named = [_name_and_exp(model) for model in args.model]
    dense = summaries[0] if summaries else summarise_dense(named[0][1] / "config.yaml")
    named[1:] = [
        (method_name(summary) if name == "auto" else name, exp_dir)
        for (name, exp_dir), summary in zip(named[1:], summaries, strict=True)
    ]
    sizes = [(dense, "dense"), *((summary, "actual") for summary in summaries)]
    models = [
        read_model(name, exp_dir, args.decode_tag, test_sets, summary, size, references)
        for (name, exp_dir), (summary, size) in zip(named, sizes, strict=True)
    ]
    if not summaries:
        models = [replace(model, macs_removed=None) for model in models]
    metric = METRICS[args.metric]
    comparison = comparison_section(models, metric)

    # After the checks: matplotlib takes a second.
    from espnet_hjprune.report import figures
    from espnet_hjprune.report.pruning_images import pruning_images

    images: list[Image] = []
    # One training may have given several models.
    last = dict(zip(args.prune_exp, summaries, strict=True))
    for model, summary, prune_exp in zip(models[1:], summaries, args.prune_exp, strict=True):
        trained = prune_exp if summary is last[prune_exp] else None
        figures.plot_architecture(summary, prune_exp / "images" / "architecture.png")
        images += pruning_images(model.name, summary, model.exp_dir, trained)
    for model in models:
        for test_set, confusion in model.confusions.items():
            path = model.exp_dir / "images" / f"confusion_{test_set}.png"
            title = f"{model.name}: {test_set}"
            figures.plot_confusion(confusion, title, path)
            images.append(Image(f"Confusion of {model.name} on {test_set}", path))
    if summaries:
        values = [{s: metric.value(c) for s, c in m.scores["wer"].items()} for m in models]
        points = [
            (m.name, m.macs_removed or 0.0, of_sets)
            for m, of_sets in zip(models, values, strict=True)
        ]
        title = f"{metric.name} against MACs removed"
        path = models[-1].exp_dir / "images" / "tradeoff.png"
        images.append(Image(title, figures.plot_tradeoff(points, metric.name, title, path)))

    seconds = float(dense.get("seconds", 10.0))
    table = project_table(models, metric, seconds)
    targets = target_table([model.name for model in models[1:]], summaries)
    timing = [latency_note(summaries), timing_note(models)]
    text = render(args.title, models, table, targets, timing, comparison, images, args.output)
    write_text(args.output, text)
    for path in args.json:
        record = result_record(args.title, models, summaries, metric, seconds)
        write_text(path, json.dumps(record, indent=2) + "\n")
    print(plain_table(table), end="")
    for image in images:
        logging.info("wrote %s", image.path)
    logging.info("wrote %s", args.output)


if __name__ == "__main__":
    run_command(main)
