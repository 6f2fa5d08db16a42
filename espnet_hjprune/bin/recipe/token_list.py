"""Make the token list of a text, for bpe with the sentencepiece model it belongs to."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path

from espnet_hjprune.bin.cli import run_command
from espnet_hjprune.data.tokens import (
    TOKEN_TYPES,
    build_tokenizer,
    check_vocabulary,
    count_tokens,
    read_texts,
    train_bpe,
    write_token_list,
)
from espnet_hjprune.errors import HJPruneError


def main(argv: Sequence[str] | None = None) -> None:
    """Parse the options and write the token list.

    Raises:
        HJPruneError: the text or the vocabulary is missing, or lacks tokens of the text.
    """
    parser = argparse.ArgumentParser(
        description=__doc__,
        allow_abbrev=False,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--text", type=Path, required=True, help="'utterance transcript' lines")
    parser.add_argument("--token_type", choices=TOKEN_TYPES, required=True, help="how to split")
    parser.add_argument("--output", type=Path, required=True, help="the token list to write")
    parser.add_argument(
        "--vocabulary", help="char: the tokens are those of this fine-tuned Hugging Face checkpoint"
    )
    parser.add_argument("--nbpe", type=int, default=300, help="number of bpe pieces")
    parser.add_argument(
        "--bpemodel_prefix", type=Path, help="bpe: PREFIX.model is made (default: --output's bpe)"
    )
    parser.add_argument(
        "--bpemode", choices=("unigram", "bpe"), default="unigram", help="kind of bpe model"
    )
    args = parser.parse_args(argv)
    texts = read_texts(args.text)
    if args.vocabulary and args.token_type != "char":
        raise HJPruneError(f"--vocabulary is for --token_type char, not {args.token_type}")
    if args.token_type == "bpe":
        prefix = args.bpemodel_prefix or args.output.parent / "bpe"
        tokens = train_bpe(texts, prefix, args.nbpe, args.bpemode)
    else:
        tokens = count_tokens(texts, build_tokenizer(args.token_type))
    if args.vocabulary:
        # Imported here: it brings transformers, which takes seconds.
        from espnet_hjprune.upstream.ctc_head import read_vocabulary

        vocabulary = read_vocabulary(args.vocabulary).tokens
        check_vocabulary(tokens, vocabulary, args.vocabulary)
        # What begins and ends a list is written with any.
        tokens = vocabulary[2:-1]
    logging.info("%s: %d tokens", args.output, write_token_list(args.output, tokens))


if __name__ == "__main__":
    run_command(main)
