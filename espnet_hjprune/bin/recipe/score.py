"""Score a decoded set with sclite: ``score_{wer,cer,ter}/{ref.trn,hyp.trn,result.txt}``."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path

from espnet_hjprune.bin.cli import run_command
from espnet_hjprune.data.tokens import TOKEN_TYPES
from espnet_hjprune.scoring.decoded import join_jobs
from espnet_hjprune.scoring.sclite import SCORE_TYPES, score_files, scoring_tokenizer


def get_parser() -> argparse.ArgumentParser:
    """Return the command-line parser."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--data_dir", type=Path, required=True, help="has text and utt2spk")
    parser.add_argument(
        "--decode_dir", type=Path, required=True, help="has logdir/output.*; scores go here"
    )
    parser.add_argument("--type", choices=SCORE_TYPES, nargs="+", default=["wer"], help="counted")
    parser.add_argument("--token_type", choices=TOKEN_TYPES, help="the model's token type, for ter")
    parser.add_argument("--bpemodel", help="the sentencepiece model, for ter with bpe")
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """Join the results of the jobs, score them and log one line for each type.

    Raises:
        HJPruneError: bad input, or sclite is missing or fails.
    """
    args = get_parser().parse_args(argv)
    join_jobs(args.decode_dir)
    hypothesis = args.decode_dir / "text"
    for score_type in args.type:
        counts, missing = score_files(
            args.data_dir / "text",
            hypothesis,
            args.data_dir / "utt2spk",
            scoring_tokenizer(score_type, args.token_type, args.bpemodel),
            args.decode_dir / f"score_{score_type}",
        )
        if missing and score_type == args.type[0]:
            logging.warning(
                "%d of %d utterances are missing from %s and count as empty",
                missing,
                counts.sentences,
                hypothesis,
            )
        logging.info(
            "%s %.2f %% (%d errors in %d tokens, %d utterances): %s/score_%s/result.txt",
            score_type.upper(),
            counts.error_rate,
            counts.errors,
            counts.words,
            counts.sentences,
            args.decode_dir,
            score_type,
        )


if __name__ == "__main__":
    run_command(main)
