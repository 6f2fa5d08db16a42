#!/usr/bin/env python3
"""Make Kaldi-style data directories for intent classification from a copy of SLURP."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from espnet_hjprune.bin.cli import run_command
from espnet_hjprune.corpora.slurp import prepare


def main(argv: Sequence[str] | None = None) -> None:
    """Parse the options and make the data directories."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        allow_abbrev=False,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument(
        "--corpus_dir", type=Path, required=True, help="the directory with dataset/ and audio/"
    )
    parser.add_argument("--output_dir", type=Path, required=True, help="usually data")
    parser.add_argument(
        "--max_missing",
        type=float,
        default=0.01,
        metavar="SHARE",
        help="share of the listed recordings that may be missing on disk",
    )
    for option, default, text in (
        ("--use_synthetic", "true", "train on the synthetic recordings too"),
        ("--drop_unseen_labels", "false", "leave out utterances whose label train lacks"),
        ("--check_counts", "true", "warn when there are not as many utterances as SLURP has"),
    ):
        parser.add_argument(option, choices=("true", "false"), default=default, help=text)
    args = parser.parse_args(argv)
    prepare(
        args.corpus_dir,
        args.output_dir,
        use_synthetic=args.use_synthetic == "true",
        max_missing=args.max_missing,
        drop_unseen=args.drop_unseen_labels == "true",
        check_counts=args.check_counts == "true",
    )


if __name__ == "__main__":
    run_command(main)
