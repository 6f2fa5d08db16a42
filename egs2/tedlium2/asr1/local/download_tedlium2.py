#!/usr/bin/env python3
"""Download TED-LIUM's release 2, where it is missing, and unpack it (37 GB packed)."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from espnet_hjprune.bin.cli import run_command
from espnet_hjprune.corpora.tedlium import ARCHIVE, download


def main(argv: Sequence[str] | None = None) -> None:
    """Parse the options and complete the corpus."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        allow_abbrev=False,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument(
        "--output_dir",
        type=Path,
        required=True,
        help="the archive and TEDLIUM_release2/ go here",
    )
    parser.add_argument("--url", default=ARCHIVE.url, help="the archive on OpenSLR or a mirror")
    args = parser.parse_args(argv)
    download(args.output_dir, replace(ARCHIVE, url=args.url))


if __name__ == "__main__":
    run_command(main)
