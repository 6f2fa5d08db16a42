"""Add faster and slower copies to a training set."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path

from espnet_hjprune.bin.cli import run_command
from espnet_hjprune.data.speed import perturb_speed


def main(argv: Sequence[str] | None = None) -> None:
    """Make the data directory."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--in_dir", type=Path, required=True, help="has wav.scp, text, utt2spk")
    parser.add_argument("--out_dir", type=Path, required=True, help="is made or replaced")
    parser.add_argument("--factors", type=float, nargs="+", required=True, help="such as 0.9 1 1.1")
    parser.add_argument("--nj", type=int, default=4, help="number of parallel processes")
    args = parser.parse_args(argv)
    count = perturb_speed(args.in_dir, args.out_dir, args.factors, args.nj)
    logging.info("%s: %d utterances", args.out_dir, count)


if __name__ == "__main__":
    run_command(main)
