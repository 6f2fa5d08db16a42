#!/usr/bin/env python3
"""Make Kaldi-style data directories from a copy of TED-LIUM's release 2."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from espnet_hjprune.bin.cli import run_command
from espnet_hjprune.corpora.tedlium import prepare_release


def main(argv: Sequence[str] | None = None) -> None:
    """Parse the options and make the data directories."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument(
        "--corpus_dir", type=Path, required=True, help="the directory TEDLIUM_release2"
    )
    parser.add_argument("--output_dir", type=Path, required=True, help="usually data")
    parser.add_argument(
        "--check_counts",
        choices=("true", "false"),
        default="true",
        help="warn when a set has not as many segments as release 2 has (default: true)",
    )
    args = parser.parse_args(argv)
    prepare_release(args.corpus_dir, args.output_dir, args.check_counts == "true")


if __name__ == "__main__":
    run_command(main)
