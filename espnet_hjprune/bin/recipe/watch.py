"""Show the progress of a training or of decoding jobs while their process lives."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from espnet_hjprune.bin.cli import run_command
from espnet_hjprune.errors import HJPruneError
from espnet_hjprune.training.steps import TrainingSteps
from espnet_hjprune.training.watch import DecodingProgress, TrainingProgress, follow


def get_parser() -> argparse.ArgumentParser:
    """Options of the command."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--pid", type=int, required=True, help="process to wait for")
    parser.add_argument("--title", required=True, help="what is going on")
    parser.add_argument("--log", type=Path, help="training log of ESPnet")
    parser.add_argument("--steps", type=Path, help="JSON file that recipe.configure wrote")
    parser.add_argument("--decode_logs", type=Path, help="directory of decode.<job>.log")
    parser.add_argument("--jobs", type=int, default=1, help="decoding jobs")
    parser.add_argument("--utterances", type=int, help="utterances to decode")
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """Follow the logs."""
    args = get_parser().parse_args(argv)
    if args.log and args.steps:
        steps = TrainingSteps(**json.loads(args.steps.read_text("utf-8")))
        training = TrainingProgress(args.log, steps.batches_per_epoch)
        total = steps.max_epoch * steps.batches_per_epoch
        follow(training.update, total, args.pid, args.title, "batch")
    elif args.decode_logs and args.utterances:
        decoding = DecodingProgress(args.decode_logs, args.jobs)
        follow(decoding.update, args.utterances, args.pid, args.title, "utt")
    else:
        raise HJPruneError("give --log and --steps, or --decode_logs and --utterances")


if __name__ == "__main__":
    run_command(main)
