#!/usr/bin/env python3
"""Synthesise small corpora: LibriSpeech's layout with espeak-ng, TED-LIUM's with flite."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from espnet_hjprune.bin.cli import run_command
from espnet_hjprune.synthetic.mini_librispeech import (
    MiniLibriSpeechConfig,
    make_mini_librispeech,
    sentences,
)
from espnet_hjprune.synthetic.mini_tedlium import MiniTedliumConfig, make_mini_tedlium

UTTERANCES = {
    "train-clean-100": 1000,
    "dev-clean": 60,
    "dev-other": 60,
    "test-clean": 150,
    "test-other": 150,
}


def main(argv: Sequence[str] | None = None) -> None:
    """Parse the options and make the corpus."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        allow_abbrev=False,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument(
        "--output_dir",
        type=Path,
        required=True,
        help="LibriSpeech/ and TEDLIUM_release2/ are made inside",
    )
    for part, count in UTTERANCES.items():
        option = "--num_train" if part.startswith("train") else f"--num_{part.replace('-', '_')}"
        parser.add_argument(
            option, dest=part, type=int, default=count, metavar="N", help=f"utterances of {part}"
        )
    parser.add_argument(
        "--num_test_tedlium", type=int, default=150, metavar="N", help="utterances of test_tedlium"
    )
    parser.add_argument("--seed", type=int, default=0, help="another seed, another corpus")
    parser.add_argument("--nj", type=int, default=2, help="number of parallel processes")
    args = parser.parse_args(argv)
    config = MiniLibriSpeechConfig({part: getattr(args, part) for part in UTTERANCES}, args.seed)
    talks = MiniTedliumConfig(args.num_test_tedlium, args.seed)
    make_mini_librispeech(args.output_dir, config, args.nj)
    make_mini_tedlium(args.output_dir, talks, sentences(config), args.nj)


if __name__ == "__main__":
    run_command(main)
