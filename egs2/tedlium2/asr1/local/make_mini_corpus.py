#!/usr/bin/env python3
"""Synthesise a small corpus in the layout of TED-LIUM's release 2 with espeak-ng and flite."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from espnet_hjprune.bin.cli import run_command
from espnet_hjprune.synthetic.mini_tedlium import MiniReleaseConfig, make_mini_release

UTTERANCES = {"train": 1000, "dev": 60, "test": 150}


def main(argv: Sequence[str] | None = None) -> None:
    """Parse the options and make the corpus."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        allow_abbrev=False,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument(
        "--output_dir", type=Path, required=True, help="TEDLIUM_release2/ is made inside"
    )
    for name, count in UTTERANCES.items():
        parser.add_argument(
            f"--num_{name}", type=int, default=count, metavar="N", help=f"utterances of {name}"
        )
    parser.add_argument("--seed", type=int, default=0, help="another seed, another corpus")
    parser.add_argument("--nj", type=int, default=2, help="number of parallel processes")
    args = parser.parse_args(argv)
    counts = {name: getattr(args, f"num_{name}") for name in UTTERANCES}
    make_mini_release(args.output_dir, MiniReleaseConfig(counts, args.seed), args.nj)


if __name__ == "__main__":
    run_command(main)
