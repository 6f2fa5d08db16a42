"""Lengths of speech and text, as ESPnet's statistics stage writes them.

The stage of ESPnet reads all audio and imports torch to find what is known already.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path

from espnet_hjprune.constants import FRAME_LENGTH, FRAME_SHIFT
from espnet_hjprune.data import audio
from espnet_hjprune.data.datadir import read_table, write_table
from espnet_hjprune.data.tokens import build_tokenizer, check_meaning, read_token_list
from espnet_hjprune.errors import HJPruneError
from espnet_hjprune.listing import named
from espnet_hjprune.progress import progress_bar


def write_shapes(
    data_dir: Path,
    token_list: Path,
    token_type: str,
    output: Path,
    bpemodel: Path | None = None,
) -> int:
    """Write ``speech_shape`` (samples) and ``text_shape.<token_type>`` (tokens, vocabulary size).

    Args:
        data_dir: a directory with text, whose utterances count, and with utt2num_samples; for
            utterances that this lacks, with wav.scp.
        token_list: the token list, whose lines are the vocabulary.
        token_type: ``char``, ``bpe`` or ``word``.
        output: directory to write to.
        bpemodel: the sentencepiece model; for ``bpe`` only.

    Returns:
        The number of utterances.

    Raises:
        HJPruneError: a file is missing, an utterance has no audio, or a word has another meaning
            to the model.
    """
    texts = read_table(data_dir / "text")
    samples = _count_samples(data_dir, texts)
    vocabulary = read_token_list(token_list)
    known, tokenizer = set(vocabulary), build_tokenizer(token_type, bpemodel)
    tokens = {utt_id: tokenizer(text) for utt_id, text in texts.items()}
    check_meaning(tokens.values(), data_dir / "text")
    _count_unalignable(data_dir, {utt_id: int(n) for utt_id, n in samples.items()}, tokens)
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


def write_audio_shapes(data_dir: Path, output: Path) -> int:
    """Write ``speech_shape`` alone, for audio without transcripts.

    Args:
        data_dir: a directory with wav.scp, whose utterances count, and with utt2num_samples for
            those whose audio need not be opened.
        output: directory to write to.

    Returns:
        The number of utterances.

    Raises:
        HJPruneError: a file is missing.
    """
    samples = _count_samples(data_dir, read_table(data_dir / "wav.scp"))
    write_table(output / "speech_shape", samples)
    return len(samples)


def _count_unalignable(
    data_dir: Path, samples: Mapping[str, int], tokens: Mapping[str, Sequence[str]]
) -> None:
    """Warn of transcripts with more tokens than their audio has frames, whose CTC loss is 0.

    CTC needs a frame for every token, and one for the blank between two that are alike.
    """
    long = []
    for utt_id, line in tokens.items():
        frames = max((samples[utt_id] - FRAME_LENGTH) // FRAME_SHIFT + 1, 0)
        needed = len(line) + sum(a == b for a, b in pairwise(line))
        if needed > frames:
            long.append(f"{utt_id} ({needed} for {frames})")
    if long:
        logging.warning(
            "%s: %d of %d transcripts need more frames than their audio has, so that CTC learns "
            "nothing from them; see to %s",
            data_dir,
            len(long),
            len(tokens),
            named(long),
        )


def _count_samples(data_dir: Path, utterances: Iterable[str]) -> dict[str, str]:
    """Lengths of utterances, from utt2num_samples or else from their audio.

    ESPnet leaves utterances in utt2num_samples that it has removed for their empty transcripts.
    """
    path = data_dir / "utt2num_samples"
    known = read_table(path) if path.exists() else {}
    unknown = [utt_id for utt_id in utterances if not known.get(utt_id, "").isdecimal()]
    wav_scp = read_table(data_dir / "wav.scp") if unknown else {}
    for utt_id in progress_bar(unknown, desc="lengths", unit="utt", disable=not unknown):
        if utt_id not in wav_scp:
            raise HJPruneError(
                f"utterance {utt_id} of {data_dir}/text has no audio in {data_dir}/wav.scp; add "
                "it, or remove the transcript"
            )
        known[utt_id] = str(audio.probe(wav_scp[utt_id]).frames)
    return {utt_id: known[utt_id] for utt_id in utterances}
