"""Decoding a test set in batches of utterances of similar length."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import soundfile
import torch
from torch.nn.utils.rnn import pad_sequence

from espnet_hjprune.constants import SAMPLE_RATE
from espnet_hjprune.data.audio import read_mono
from espnet_hjprune.data.datadir import read_table, write_table
from espnet_hjprune.data.tokens import build_detokenizer
from espnet_hjprune.errors import HJPruneError
from espnet_hjprune.inference.beam import BeamSearch
from espnet_hjprune.inference.config import DecodeConfig
from espnet_hjprune.inference.greedy import Hypothesis, greedy_search
from espnet_hjprune.inference.model import FIRST_LABEL, Recogniser
from espnet_hjprune.scoring.decoding_time import DecodingTime, write_timing


def read_samples(location: str, is_ark: bool) -> torch.Tensor:
    """Read an utterance ``(samples,)`` at 16 kHz as ESPnet does: integers of archives unscaled.

    Args:
        location: a file, or ``file:offset`` in an archive of Kaldi.
        is_ark: which of the two.

    Raises:
        HJPruneError: the audio cannot be read.
    """
    if not is_ark:
        return torch.from_numpy(read_mono(location, SAMPLE_RATE))
    import kaldiio

    try:
        rate, samples = kaldiio.load_mat(location)
    except (OSError, ValueError, TypeError, RuntimeError, AssertionError) as error:
        raise HJPruneError(f"there is no audio at {location} ({error})") from None
    if rate != SAMPLE_RATE:
        raise HJPruneError(f"{location} has {rate} Hz instead of {SAMPLE_RATE}; run stage 2 again")
    return torch.from_numpy(samples.astype(np.float32))


def read_batch(locations: Sequence[str], is_ark: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Read utterances into ``(batch, samples)``, zero after their ends, and their lengths."""
    waves = [read_samples(location, is_ark) for location in locations]
    return pad_sequence(waves, batch_first=True), torch.tensor([len(wave) for wave in waves])


def count_samples(wav_scp: Mapping[str, str], data_dir: Path, is_ark: bool) -> dict[str, int]:
    """Lengths of the utterances, from ``utt2num_samples`` or from the audio itself."""
    table = data_dir / "utt2num_samples"
    known = read_table(table) if table.is_file() else {}
    counts = {}
    for name, location in wav_scp.items():
        if known.get(name, "").isdigit():
            counts[name] = int(known[name])
        elif is_ark:
            counts[name] = len(read_samples(location, is_ark))
        else:
            try:
                info = soundfile.info(location)
            except (soundfile.LibsndfileError, OSError) as error:
                raise HJPruneError(f"audio file {location} is unreadable ({error})") from None
            counts[name] = info.frames * SAMPLE_RATE // info.samplerate
    return counts


def make_batches(counts: Mapping[str, int], batch_seconds: float) -> list[list[str]]:
    """Group utterances of similar length, the longest first.

    A batch has at most ``batch_seconds`` of audio with its padding, but at least one utterance.
    """
    limit = batch_seconds * SAMPLE_RATE
    batches: list[list[str]] = []
    for name in sorted(counts, key=lambda name: (-counts[name], name)):
        if batches and counts[batches[-1][0]] * (len(batches[-1]) + 1) <= limit:
            batches[-1].append(name)
        else:
            batches.append([name])
    return batches


def decode(
    model: Recogniser,
    wav_scp: Mapping[str, str],
    data_dir: Path,
    options: DecodeConfig,
    output: Path,
    is_ark: bool = False,
    device: str = "cpu",
) -> None:
    """Decode utterances and write what ``asr_inference`` writes.

    These are ``<output>/<n>best_recog/{text,token,token_int,score}`` for n up to ``nbest``; the
    time that encoder and search took is in ``<output>/timing.json``.

    Args:
        model: the model; it is moved to the device.
        wav_scp: locations of the utterances.
        data_dir: directory that may have their lengths in ``utt2num_samples``.
        options: how to search.
        output: directory to write to.
        is_ark: whether the locations are in archives of Kaldi.
        device: ``cpu`` or ``cuda``.
    """
    model = model.to(device).eval()
    beam = None
    if options.search == "beam" and not model.classifies:
        beam = BeamSearch(model.tokens, options)
    detokenize = build_detokenizer(model.token_type, model.bpemodel)
    columns = ("text", "token", "token_int", "score")
    tables: list[dict[str, dict[str, str]]] = [
        {column: {} for column in columns} for _ in range(options.nbest)
    ]
    total = DecodingTime()
    for batch in make_batches(count_samples(wav_scp, data_dir, is_ark), options.batch_seconds):
        padded, lengths = read_batch([wav_scp[name] for name in batch], is_ark)
        begin = time.perf_counter()
        with torch.inference_mode():
            log_probs, frames = model(padded.to(device), lengths.to(device))
            results = search(model, log_probs, frames, beam)
        seconds = time.perf_counter() - begin
        for name, hypotheses in zip(batch, results, strict=True):
            for table, hypothesis in zip(tables, hypotheses, strict=False):
                tokens = [model.tokens[number] for number in hypothesis.tokens]
                words = hypothesis.words
                text = detokenize(tokens) if words is None else " ".join(words)
                # The forms of ESPnet's decoding, which prints a tensor.
                row = (
                    text,
                    " ".join(tokens),
                    " ".join(map(str, hypothesis.tokens)),
                    str(torch.tensor(hypothesis.score)),
                )
                for column, value in zip(columns, row, strict=True):
                    table[column][name] = value
        total += DecodingTime(len(batch), seconds, int(lengths.sum()) / SAMPLE_RATE)
        logging.info("decoded %d utterances in %.3f s", len(batch), seconds)
    for number, table in enumerate(tables, 1):
        for column in columns:
            write_table(output / f"{number}best_recog" / column, table[column])
    write_timing(output, total)


def search(
    model: Recogniser,
    log_probs: torch.Tensor,
    frames: torch.Tensor,
    beam: BeamSearch | None = None,
) -> list[list[Hypothesis]]:
    """Hypotheses of every utterance, the best first, from what the model returns."""
    if model.classifies:
        score, label = log_probs.max(-1)
        pairs = zip(label.tolist(), score.tolist(), strict=True)
        return [[Hypothesis([number + FIRST_LABEL], value)] for number, value in pairs]
    if beam is not None:
        return beam(log_probs, frames)
    # The search is many small steps, for which a GPU is too far away.
    return [[found] for found in greedy_search(log_probs.cpu(), frames.cpu())]
