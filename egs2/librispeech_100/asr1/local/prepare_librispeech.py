#!/usr/bin/env python3
"""Make Kaldi-style data directories from a copy of LibriSpeech."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from espnet_hjprune.bin.cli import run_command
from espnet_hjprune.corpora.librispeech import SUBSETS, prepare


def main(argv: Sequence[str] | None = None) -> None:
    """Parse the options and make the data directories."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument(
        "--corpus_dir", type=Path, required=True, help="the directory LibriSpeech with its parts"
    )
    parser.add_argument("--output_dir", type=Path, required=True, help="usually data")
    parser.add_argument(
        "--parts", nargs="+", choices=list(SUBSETS), default=list(SUBSETS), help="default: all"
    )
    parser.add_argument(
        "--check_counts",
        choices=("true", "false"),
        default="true",
        help="warn when a part has not as many utterances as LibriSpeech has (default: true)",
    )
    args = parser.parse_args(argv)
    prepare(args.corpus_dir, args.output_dir, args.parts, args.check_counts == "true")


if __name__ == "__main__":
    run_command(main)
