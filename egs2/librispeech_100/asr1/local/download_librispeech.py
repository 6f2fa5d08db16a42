#!/usr/bin/env python3
"""Download the parts of LibriSpeech that are missing and unpack them (7.7 GB packed in all)."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from espnet_hjprune.bin.cli import run_command
from espnet_hjprune.corpora.librispeech import BASE_URL, SUBSETS, download


def main(argv: Sequence[str] | None = None) -> None:
    """Parse the options and complete the corpus."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        allow_abbrev=False,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument(
        "--output_dir", type=Path, required=True, help="archives and LibriSpeech/ go here"
    )
    parser.add_argument(
        "--parts", nargs="+", choices=list(SUBSETS), default=list(SUBSETS), help="which ones"
    )
    parser.add_argument("--base_url", default=BASE_URL, help="OpenSLR or a mirror of it")
    args = parser.parse_args(argv)
    download(args.output_dir, args.parts, args.base_url)


if __name__ == "__main__":
    run_command(main)
