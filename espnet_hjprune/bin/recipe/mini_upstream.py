"""Make the checkpoint of a mini upstream in its family's own format.

It has random weights, or is trained on transcripts, in place of self-supervised pre-training.
"""

from __future__ import annotations

import argparse
import logging
import tempfile
from collections.abc import Sequence
from pathlib import Path

from espnet_hjprune.bin.cli import run_command


def get_parser() -> argparse.ArgumentParser:
    """Options of the command."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--name", required=True, help="family and size, such as hubert_mini")
    parser.add_argument("--output", type=Path, required=True, help="checkpoint file to write")
    parser.add_argument("--epochs", type=int, default=0, help="passes over the data; 0: random")
    parser.add_argument("--data_dir", type=Path, help="has wav.scp and the words; for epochs")
    parser.add_argument(
        "--text", help="the table with the words; default transcript, or text where there is none"
    )
    parser.add_argument("--seed", type=int, default=0)
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """Write the checkpoint."""
    args = get_parser().parse_args(argv)
    from espnet_hjprune.synthetic.pretrain import PretrainConfig, pretrain
    from espnet_hjprune.upstream import architecture
    from espnet_hjprune.upstream.random_checkpoint import save_random_checkpoint

    family, _, _ = args.name.rpartition("_")
    config = architecture(args.name)
    if args.epochs == 0:
        save_random_checkpoint(config, family, str(args.output), args.seed)
        logging.info("Wrote a random %s upstream to %s", args.name, args.output)
        return
    with tempfile.TemporaryDirectory() as directory:
        start = Path(directory) / "random.pt"
        save_random_checkpoint(config, family, str(start), args.seed)
        has_transcript = (args.data_dir / "transcript").is_file()
        text = args.text or ("transcript" if has_transcript else "text")
        logging.info("The words are those of %s", args.data_dir / text)
        training = PretrainConfig(epochs=args.epochs, seed=args.seed)
        upstream = f"{family}_local"
        loss = pretrain(upstream, start, args.output, args.data_dir, text, training)
    logging.info("Wrote %s, trained for %d epochs to loss %.3g", args.output, args.epochs, loss)


if __name__ == "__main__":
    run_command(main)
