"""Write the lengths of speech and text that ESPnet's batch samplers read."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path

from espnet_hjprune.bin.cli import run_command
from espnet_hjprune.data.shapes import write_shapes
from espnet_hjprune.data.tokens import TOKEN_TYPES


def main(argv: Sequence[str] | None = None) -> None:
    """Parse the options and write the shape files."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--data_dir", type=Path, required=True, help="has text, utt2num_samples")
    parser.add_argument(
        "--token_list", type=Path, required=True, help="made by bin.recipe.token_list"
    )
    parser.add_argument("--token_type", choices=TOKEN_TYPES, required=True, help="how to split")
    parser.add_argument("--bpemodel", type=Path, help="sentencepiece model; bpe only")
    parser.add_argument("--out_dir", type=Path, required=True, help="where the files are written")
    args = parser.parse_args(argv)
    count = write_shapes(
        args.data_dir, args.token_list, args.token_type, args.out_dir, args.bpemodel
    )
    logging.info("%s: %d utterances", args.out_dir, count)


if __name__ == "__main__":
    run_command(main)
