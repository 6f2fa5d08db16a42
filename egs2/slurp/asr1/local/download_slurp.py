#!/usr/bin/env python3
"""Download what is missing of SLURP and unpack it (6.8 GB packed in all)."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from espnet_hjprune.bin.cli import run_command
from espnet_hjprune.corpora.slurp import ANNOTATIONS, AUDIO_RECORD, download


def main(argv: Sequence[str] | None = None) -> None:
    """Parse the options and complete the corpus."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        allow_abbrev=False,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument(
        "--output_dir", type=Path, required=True, help="archives, dataset/ and audio/ go here"
    )
    parser.add_argument(
        "--audio_record", default=AUDIO_RECORD, help="description of the audio's record on Zenodo"
    )
    parser.add_argument(
        "--annotations", default=ANNOTATIONS, help="listing of the annotations on GitHub"
    )
    args = parser.parse_args(argv)
    download(args.output_dir, args.audio_record, args.annotations)


if __name__ == "__main__":
    run_command(main)
