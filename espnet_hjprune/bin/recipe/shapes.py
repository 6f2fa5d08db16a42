"""Write the lengths of speech and text, or of speech alone, that ESPnet's batch samplers read."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path

from espnet_hjprune.bin.cli import run_command
from espnet_hjprune.data.shapes import write_audio_shapes, write_shapes
from espnet_hjprune.data.tokens import TOKEN_TYPES
from espnet_hjprune.errors import UsageError


def main(argv: Sequence[str] | None = None) -> None:
    """Parse the options and write the shape files."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--data_dir", type=Path, required=True, help="has text, utt2num_samples")
    parser.add_argument("--audio_only", choices=("true", "false"), default="false", help="no text")
    parser.add_argument("--token_list", type=Path, help="made by bin.recipe.token_list")
    parser.add_argument("--token_type", choices=TOKEN_TYPES, help="how to split")
    parser.add_argument("--bpemodel", type=Path, help="sentencepiece model; bpe only")
    parser.add_argument("--out_dir", type=Path, required=True, help="where the files are written")
    args = parser.parse_args(argv)
    if args.audio_only == "true":
        count = write_audio_shapes(args.data_dir, args.out_dir)
    elif args.token_list and args.token_type:
        count = write_shapes(
            args.data_dir, args.token_list, args.token_type, args.out_dir, args.bpemodel
        )
    else:
        raise UsageError("--token_list and --token_type are missing; or give --audio_only true")
    logging.info("%s: %d utterances", args.out_dir, count)


if __name__ == "__main__":
    run_command(main)
