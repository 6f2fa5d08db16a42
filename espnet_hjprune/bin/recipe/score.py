"""Score one decoded set with sclite: ``score_{wer,cer,ter}/{ref.trn,hyp.trn,result.txt}``."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence

from espnet_hjprune.bin.cli import run_command
from espnet_hjprune.data.tokens import TOKEN_TYPES
from espnet_hjprune.scoring.sclite import SCORE_TYPES, score_files, scoring_tokenizer


def get_parser() -> argparse.ArgumentParser:
    """Return the command-line parser."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--ref", required=True, help="reference text, as in a data directory")
    parser.add_argument("--hyp", required=True, help="recognised text, in the same format")
    parser.add_argument("--utt2spk", required=True, help="speaker of each reference utterance")
    parser.add_argument("--type", choices=SCORE_TYPES, default="wer", help="what to count")
    parser.add_argument("--token_type", choices=TOKEN_TYPES, help="the model's token type, for ter")
    parser.add_argument("--bpemodel", help="the sentencepiece model, for ter with bpe")
    parser.add_argument("--out_dir", required=True, help="directory for trn files and result")
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """Score and log one line with the result.

    Raises:
        HJPruneError: bad input, or sclite is missing or fails.
    """
    args = get_parser().parse_args(argv)
    tokenize = scoring_tokenizer(args.type, args.token_type, args.bpemodel)
    counts, missing = score_files(args.ref, args.hyp, args.utt2spk, tokenize, args.out_dir)
    if missing:
        logging.warning(
            "%d of %d utterances are missing from %s and count as empty",
            missing,
            counts.sentences,
            args.hyp,
        )
    logging.info(
        "%s %.2f %% (%d errors in %d tokens, %d utterances): %s/result.txt",
        args.type.upper(),
        counts.error_rate,
        counts.errors,
        counts.words,
        counts.sentences,
        args.out_dir,
    )


if __name__ == "__main__":
    run_command(main)
