"""Write RESULTS.md and the figures of models that were pruned without labels."""

from __future__ import annotations

import argparse
import json
import logging
from collections.abc import Sequence
from pathlib import Path

from espnet_hjprune.atomic import write_text
from espnet_hjprune.bin.cli import run_command
from espnet_hjprune.errors import UsageError
from espnet_hjprune.report.results_md import Image, plain_table, read_summary
from espnet_hjprune.report.unlabelled import (
    cost_table,
    distance_table,
    read_unlabelled_model,
    render_unlabelled,
    unlabelled_record,
)


def get_parser() -> argparse.ArgumentParser:
    """Return the command-line parser."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--output", required=True, type=Path, help="RESULTS.md to write")
    for option, what in (
        ("--prune_exp", "experiment of the gated pruning (stage 4)"),
        ("--summary", "summary.json of the compaction (stage 5)"),
        ("--distances", "what recipe.measure_states has written"),
    ):
        parser.add_argument(
            option, required=True, action="append", type=Path, help=f"{what}, once for each model"
        )
    parser.add_argument(
        "--json", nargs="+", default=[], type=Path, help="files for the same figures as JSON"
    )
    parser.add_argument("--title", default="RESULTS", help="headline of RESULTS.md")
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """Write and print the report.

    Raises:
        HJPruneError: options that do not fit together, or results that are missing.
    """
    args = get_parser().parse_args(argv)
    if not len(args.prune_exp) == len(args.summary) == len(args.distances):
        raise UsageError("--prune_exp, --summary and --distances are given once for each model")
    models = [
        read_unlabelled_model(read_summary(summary), distances, prune_exp)
        for summary, distances, prune_exp in zip(
            args.summary, args.distances, args.prune_exp, strict=True
        )
    ]

    # After the checks: matplotlib takes a second.
    from espnet_hjprune.report import figures
    from espnet_hjprune.report.pruning_images import pruning_images

    images: list[Image] = []
    # One training may have given several models.
    last = dict(zip(args.prune_exp, models, strict=True))
    for model, prune_exp, distances in zip(models, args.prune_exp, args.distances, strict=True):
        exp_dir = distances.parents[1]
        trained = prune_exp if model is last[prune_exp] else None
        images += pruning_images(model.name, model.summary, exp_dir, trained)
        path = exp_dir / "images" / "distances.png"
        title = f"{model.name}: distance from the dense model"
        path = figures.plot_distances(model.distances, title, path)
        images.append(Image(f"Distances of {model.name}", path))
    write_text(args.output, render_unlabelled(args.title, models, images, args.output))
    record = json.dumps(unlabelled_record(args.title, models), indent=2) + "\n"
    for path in args.json:
        write_text(path, record)
    for table in (cost_table(models), distance_table(models)):
        print(plain_table(table))
    for image in images:
        logging.info("wrote %s", image.path)
    logging.info("wrote %s", args.output)


if __name__ == "__main__":
    run_command(main)
