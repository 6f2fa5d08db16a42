"""Train a small upstream checkpoint on transcripts, in place of self-supervised pre-training."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path

from espnet_hjprune.bin.cli import run_command


def get_parser() -> argparse.ArgumentParser:
    """Options of the command."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--upstream", required=True, help="s3prl's name, such as wav2vec2_local")
    parser.add_argument("--checkpoint", type=Path, required=True, help="where it starts from")
    parser.add_argument("--data_dir", type=Path, required=True, help="has wav.scp and the words")
    parser.add_argument("--text", default="transcript", help="the table with the words")
    parser.add_argument("--epochs", type=int, default=8, help="passes over the data")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, required=True, help="checkpoint file to write")
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """Train and write the checkpoint."""
    args = get_parser().parse_args(argv)
    from espnet_hjprune.synthetic.pretrain import PretrainConfig, pretrain

    config = PretrainConfig(epochs=args.epochs, seed=args.seed)
    loss = pretrain(args.upstream, args.checkpoint, args.output, args.data_dir, args.text, config)
    logging.info("Wrote %s, trained for %d epochs to loss %.3g", args.output, args.epochs, loss)


if __name__ == "__main__":
    run_command(main)
