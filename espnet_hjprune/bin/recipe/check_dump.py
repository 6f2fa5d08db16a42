"""Check formatted data, which ESPnet's own recipe may have made, before a training reads them."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from espnet_hjprune.bin.cli import run_command
from espnet_hjprune.constants import AUDIO_FORMATS
from espnet_hjprune.data.check import check_audio_dump, check_dump


def main(argv: Sequence[str] | None = None) -> None:
    """Check the directories.

    Raises:
        HJPruneError: a directory cannot be used; the message says why.
    """
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--audio_format", choices=AUDIO_FORMATS, required=True, help="of wav.scp")
    parser.add_argument("--train_dir", type=Path, nargs="+", required=True, help="for training")
    parser.add_argument(
        "--test_dir", type=Path, nargs="*", default=[], help="for scoring; checked if there already"
    )
    parser.add_argument(
        "--audio_only", choices=("true", "false"), default="false", help="true: no transcripts"
    )
    args = parser.parse_args(argv)
    uses = [(directory, True) for directory in args.train_dir]
    uses += [(directory, False) for directory in args.test_dir if directory.is_dir()]
    for directory, trains in uses:
        if args.audio_only == "true":
            check_audio_dump(directory, args.audio_format)
        else:
            check_dump(directory, args.audio_format, trains)


if __name__ == "__main__":
    run_command(main)
