"""Bring a data directory's audio into the form that training reads, and count its samples."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path

from espnet_hjprune.bin.cli import run_command
from espnet_hjprune.constants import AUDIO_FORMATS
from espnet_hjprune.data.audio import parse_rate
from espnet_hjprune.data.dump import AudioFormat, format_data


def main(argv: Sequence[str] | None = None) -> None:
    """Parse the options and format one data directory."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        allow_abbrev=False,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--in_dir", type=Path, required=True, help="has wav.scp, text, utt2spk")
    parser.add_argument("--out_dir", type=Path, required=True, help="is made or replaced")
    parser.add_argument("--audio_format", choices=AUDIO_FORMATS, default="flac", help="to make")
    parser.add_argument("--fs", default="16k", help="sampling rate, such as 16k or 16000")
    parser.add_argument(
        "--min_wav_duration", type=float, default=0.0, metavar="S", help="shorter ones are left out"
    )
    parser.add_argument(
        "--max_wav_duration",
        type=float,
        default=float("inf"),
        metavar="S",
        help="longer ones are left out",
    )
    parser.add_argument(
        "--scored",
        choices=("true", "false"),
        default="false",
        help="true: a test set, with names that sclite can hold; empty utterances stay in its text",
    )
    parser.add_argument(
        "--audio_only",
        choices=("true", "false"),
        default="false",
        help="true: for training without labels; transcripts and speakers are not read",
    )
    parser.add_argument("--nj", type=int, default=4, help="number of parallel processes")
    args = parser.parse_args(argv)
    target = AudioFormat(
        args.audio_format,
        parse_rate(args.fs),
        args.min_wav_duration,
        args.max_wav_duration,
        is_scored=args.scored == "true",
        audio_only=args.audio_only == "true",
    )
    count = format_data(args.in_dir, args.out_dir, target, args.nj)
    logging.info("%s: %d utterances", args.out_dir, count)


if __name__ == "__main__":
    run_command(main)
