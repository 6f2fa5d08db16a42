"""Write a randomly initialised upstream checkpoint in its family's own format."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence

from espnet_hjprune.bin.cli import run_command


def get_parser() -> argparse.ArgumentParser:
    """Options of the command."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--family", required=True, help="of the architecture, such as hubert")
    parser.add_argument("--size", required=True, help="mini, base, large, ...")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", required=True, help="checkpoint file to write")
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """Write the checkpoint."""
    args = get_parser().parse_args(argv)
    from espnet_hjprune.upstream import architecture
    from espnet_hjprune.upstream.random_checkpoint import save_random_checkpoint

    config = architecture(f"{args.family}_{args.size}")
    save_random_checkpoint(config, args.family, args.output, args.seed)
    logging.info("Wrote a random %s_%s upstream to %s", args.family, args.size, args.output)


if __name__ == "__main__":
    run_command(main)
