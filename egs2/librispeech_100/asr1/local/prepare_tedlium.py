#!/usr/bin/env python3
"""Make the data directory of TED-LIUM's test set."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from espnet_hjprune.bin.cli import run_command
from espnet_hjprune.corpora.tedlium import prepare


def main(argv: Sequence[str] | None = None) -> None:
    """Parse the options and make the data directory."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument(
        "--corpus_dir",
        type=Path,
        required=True,
        help="a release of TED-LIUM, or the directory that holds it",
    )
    parser.add_argument("--output_dir", type=Path, required=True, help="usually data")
    parser.add_argument(
        "--check_count",
        choices=("true", "false"),
        default="true",
        help="warn about another number of utterances than TED-LIUM has (default: true)",
    )
    args = parser.parse_args(argv)
    prepare(args.corpus_dir, args.output_dir, args.check_count == "true")


if __name__ == "__main__":
    run_command(main)
