"""Lengths of speech and text, as ESPnet's statistics stage writes them.

The stage of ESPnet reads all audio and imports torch to find what is known already.
"""

from __future__ import annotations

import logging
from pathlib import Path

from espnet_hjprune.data.datadir import read_table, write_table
from espnet_hjprune.data.tokens import build_tokenizer, read_token_list
from espnet_hjprune.errors import HJPruneError


def write_shapes(
    data_dir: Path,
    token_list: Path,
    token_type: str,
    output: Path,
    bpemodel: Path | None = None,
) -> int:
    """Write ``speech_shape`` (samples) and ``text_shape.<token_type>`` (tokens, vocabulary size).

    Args:
        data_dir: a directory with utt2num_samples and text.
        token_list: the token list, whose lines are the vocabulary.
        token_type: ``char``, ``bpe`` or ``word``.
        output: directory to write to.
        bpemodel: the sentencepiece model; for ``bpe`` only.

    Returns:
        The number of utterances.

    Raises:
        HJPruneError: a file is missing, or text and audio have not the same utterances.
    """
    samples, texts = read_table(data_dir / "utt2num_samples"), read_table(data_dir / "text")
    lonely = sorted(samples.keys() ^ texts.keys())
    if lonely:
        raise HJPruneError(
            f"utterance {lonely[0]} is in only one of {data_dir}/text and "
            f"{data_dir}/utt2num_samples; run stage 2 again"
        )
    vocabulary = read_token_list(token_list)
    known, tokenizer = set(vocabulary), build_tokenizer(token_type, bpemodel)
    tokens = {utt_id: tokenizer(text) for utt_id, text in texts.items()}
    unknown = sorted({token for line in tokens.values() for token in line} - known)
    if unknown:
        logging.warning(
            "%s/text has %d tokens that %s does not have, such as '%s': they become <unk>",
            data_dir,
            len(unknown),
            token_list,
            unknown[0],
        )
    write_table(output / "speech_shape", samples)
    write_table(
        output / f"text_shape.{token_type}",
        {utt_id: f"{len(line)},{len(vocabulary)}" for utt_id, line in tokens.items()},
    )
    return len(samples)
