"""Run whole prunings of a tiny model, and see whether the constraint settles on its target.

One file for each pruning goes to OUTPUT; those that are there are not run again. OUTPUT/RESULTS.md
has the table, OUTPUT/curves.png the figure.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from espnet_hjprune.atomic import write_text
from espnet_hjprune.bin.cli import run_command
from espnet_hjprune.errors import UsageError


def get_parser() -> argparse.ArgumentParser:
    """Options of the command; every combination of the lists is one pruning."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        allow_abbrev=False,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--output", type=Path, default=Path("constraint"), help="a directory")
    parser.add_argument("--dampings", type=float, nargs="+", default=[0.0, 100.0])
    parser.add_argument("--rates", type=float, nargs="+", default=[0.02, 0.05])
    parser.add_argument("--schedules", nargs="+", default=["constant", "linear"])
    parser.add_argument("--losses", nargs="+", default=["sum", "mean"])
    parser.add_argument("--steps", type=int, nargs="+", default=[13380], help="the paper's: 13380")
    parser.add_argument("--targets", type=float, nargs="+", default=[0.4], help="shares of MACs")
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """Run what is missing, and write the page.

    Raises:
        HJPruneError: an option has an unknown value, or a file in the directory is no curve.
    """
    args = get_parser().parse_args(argv)
    for option, known in (("schedules", ("constant", "linear")), ("losses", ("sum", "mean"))):
        unknown = [value for value in getattr(args, option) if value not in known]
        if unknown:
            raise UsageError(f"--{option} takes {' and '.join(known)}, not '{unknown[0]}'")
    if min(args.steps) < 1:
        raise UsageError(f"--steps is {min(args.steps)}; give a positive number")

    from espnet_hjprune.benchmark.constraint_dynamics import (
        curve_table,
        plot_curves,
        pretrained,
        prune,
        read_curves,
        save_curve,
        settings_of,
    )

    args.output.mkdir(parents=True, exist_ok=True)
    chosen = settings_of(
        {
            "damping": args.dampings,
            "rate": args.rates,
            "schedule": args.schedules,
            "loss": args.losses,
            "steps": args.steps,
            "target": args.targets,
        }
    )
    missing = [s for s in chosen if not (args.output / f"{s.name}.json").is_file()]
    if missing:
        model = pretrained(args.output)
        for setting in missing:
            save_curve(prune(model, setting), args.output)
    curves = read_curves(args.output)
    plot_curves(curves, args.output / "curves.png")
    write_text(args.output / "RESULTS.md", curve_table(curves) + "\n![curves](curves.png)\n")
    print(curve_table(curves))


if __name__ == "__main__":
    run_command(main)
