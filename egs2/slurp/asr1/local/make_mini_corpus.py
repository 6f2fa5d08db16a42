#!/usr/bin/env python3
"""Synthesise a small corpus in SLURP's layout with espeak-ng and flite."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from espnet_hjprune.bin.cli import run_command
from espnet_hjprune.synthetic.mini_slurp import MiniSlurpConfig, make_mini_slurp

PROMPTS = {"train": 250, "train_synthetic": 100, "devel": 40, "test": 100}


def main(argv: Sequence[str] | None = None) -> None:
    """Parse the options and make the corpus."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        allow_abbrev=False,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument(
        "--output_dir", type=Path, required=True, help="dataset/ and audio/ are made inside"
    )
    for name, count in PROMPTS.items():
        parser.add_argument(
            f"--num_{name}", type=int, default=count, metavar="N", help=f"prompts of {name}"
        )
    parser.add_argument("--seed", type=int, default=0, help="another seed, another corpus")
    parser.add_argument("--nj", type=int, default=2, help="number of parallel processes")
    args = parser.parse_args(argv)
    config = MiniSlurpConfig({name: getattr(args, f"num_{name}") for name in PROMPTS}, args.seed)
    make_mini_slurp(args.output_dir, config, args.nj)


if __name__ == "__main__":
    run_command(main)
