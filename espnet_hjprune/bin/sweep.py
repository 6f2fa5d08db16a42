"""Prune a fine-tuned model by several methods to several targets, and compare the results.

Starts stages 1 to 3 of a recipe for each upstream and stages 4 to 7 for each point of the grids
that a YAML file describes. Finished points are not repeated; those that failed are tried again.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path

from espnet_hjprune.bin.cli import run_command
from espnet_hjprune.errors import HJPruneError
from espnet_hjprune.sweep.config import SweepConfig
from espnet_hjprune.sweep.run import Sweep


def get_parser() -> argparse.ArgumentParser:
    """Options of the command."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--config", required=True, help="YAML file with the grids")
    parser.add_argument("--dir", help="directory of the sweep; default exp/sweep_NAME")
    parser.add_argument("--parallel", type=int, help="points at once, instead of the configured")
    parser.add_argument(
        "--only", metavar="PATTERN", help="run only points of such names, as in 'wav2vec2-macs-*'"
    )
    parser.add_argument("--list", action="store_true", help="only say which points there are")
    parser.add_argument(
        "--report_only", action="store_true", help="only compare the points that are finished"
    )
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """Run the sweep and write its report."""
    args = get_parser().parse_args(argv)
    config = SweepConfig.read(args.config)
    if args.parallel is not None:
        config.parallel = args.parallel
    directory = Path(args.dir or f"exp/sweep_{config.name}")
    sweep = Sweep(config, directory, Path(config.recipe))
    if args.list:
        for point in sweep.points:
            state = "finished" if sweep.job(point).is_finished() else "to do"
            print(f"{state:10s}{point.name}")
        return
    try:
        if not args.report_only:
            sweep.run(args.only)
    except BaseException:
        # What went wrong is said at the end, not that there is no report either.
        try:
            write_report(sweep)
        except HJPruneError as error:
            logging.warning("there is no report: %s", error)
        raise
    write_report(sweep)


def write_report(sweep: Sweep) -> None:
    """Write tables, figures and the page of all finished points, if there are any."""
    from espnet_hjprune.sweep.record import read_swept_models
    from espnet_hjprune.sweep.report import write_sweep_report

    finished = [point for point in sweep.points if sweep.job(point).is_finished()]
    if not finished:
        return
    results = [
        (point.method, point.upstream, sweep.job(point).directory / "results.json")
        for point in finished
    ]
    record = read_swept_models(results)
    written = write_sweep_report(sweep.config.name, record, sweep.directory, sweep.config.given)
    logging.info("wrote %s", ", ".join(str(path) for path in written))


if __name__ == "__main__":
    run_command(main)
