"""Speed perturbation: copies of a training set that are spoken faster or slower."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from espnet_hjprune.atomic import replaced_directory
from espnet_hjprune.constants import FASTEST, SAMPLE_RATE, SLOWEST
from espnet_hjprune.data import audio
from espnet_hjprune.data.datadir import read_table, speaker_table, write_table
from espnet_hjprune.data.sources import (
    AudioSource,
    check_tables,
    count_commands,
    read_audio_sources,
)
from espnet_hjprune.errors import HJPruneError
from espnet_hjprune.parallel import parallel_map
from espnet_hjprune.progress import progress_bar


def perturb_samples(source: AudioSource, factor: float) -> np.ndarray:
    """Samples of ``source`` at 16 kHz, ``factor`` times as fast, the pitch changing along.

    Raises:
        AudioError: the file cannot be decoded, or ends before the part.
    """
    samples = audio.read_mono(source.path, SAMPLE_RATE, source.start, source.end)
    return audio.resample(samples, round(SAMPLE_RATE * factor), SAMPLE_RATE)


def _perturb(item: tuple[str, AudioSource], factor: float, directory: Path) -> float | None:
    """Write one perturbed copy; return its largest value, or None if the audio cannot be used."""
    utt_id, source = item
    try:
        samples = perturb_samples(source, factor)
    except audio.AudioError as error:
        logging.warning("%s: %s", utt_id, error)
        return None
    if len(samples) == 0:
        return None
    audio.write_audio(directory / f"{utt_id}.flac", samples, SAMPLE_RATE)
    return float(np.abs(samples).max())


def perturb_speed(source: Path, output: Path, factors: Sequence[float], nj: int = 4) -> int:
    """Make a data directory with a copy of every utterance for every factor.

    Utterances and speakers of a copy are called ``sp<factor>-<name>``; factor 1 is the original,
    which stays a part of its recording where it is one.

    Args:
        source: a data directory with wav.scp, text, utt2spk and, where utterances are parts of
            recordings, segments.
        output: the directory to make; a former one is replaced as a whole.
        factors: speeds, between 0.5 and 2.
        nj: number of processes.

    Returns:
        The number of utterances in ``output``.

    Raises:
        HJPruneError: a factor is not sensible, a file is missing, or an utterance lacks a
            transcript, a speaker or a file.
    """
    for factor in factors:
        if not SLOWEST <= factor <= FASTEST:
            raise HJPruneError(f"the speed factor {factor} is not between 0.5 and 2; correct it")
    sources = read_audio_sources(source)
    text, utt2spk = (read_table(source / name) for name in ("text", "utt2spk"))
    check_tables(source, sources, text, utt2spk)
    count_commands(source, sources)
    tables: dict[str, dict[str, str]] = {"wav.scp": {}, "text": {}, "utt2spk": {}}
    segments: dict[str, str] = {}

    def add(prefix: str, utt_ids: Iterable[str]) -> None:
        for utt_id in utt_ids:
            if prefix + utt_id in tables["text"]:
                raise HJPruneError(
                    f"{source} has copies of other speeds already, such as {prefix}{utt_id}; leave "
                    "--speed_perturb_factors out"
                )
            tables["text"][prefix + utt_id] = text[utt_id]
            tables["utt2spk"][prefix + utt_id] = prefix + utt2spk[utt_id]

    # Few at a time, for a smooth progress bar; many enough not to wait for one another.
    with replaced_directory(output) as directory, parallel_map(nj, chunksize=16) as run:
        for factor in dict.fromkeys(factors):
            if factor == 1:
                add("", sources)
                tables["wav.scp"] |= read_table(source / "wav.scp")
                if (source / "segments").exists():
                    segments |= read_table(source / "segments")
                continue
            prefix = f"sp{factor:g}-"
            copies = directory / "wav" / f"sp{factor:g}"
            copies.mkdir(parents=True)
            done = run(partial(_perturb, factor=factor, directory=copies), sources.items())
            progress = progress_bar(done, total=len(sources), desc=f"speed {factor:g}", unit="utt")
            peaks = dict(zip(sources, progress, strict=True))
            usable = [utt_id for utt_id, peak in peaks.items() if peak is not None]
            clipped = sum(peak is not None and peak > 1 for peak in peaks.values())
            if clipped:
                logging.warning(
                    "%s: %d of %d utterances of speed %g are clipped, as samples must lie between "
                    "-1 and 1",
                    source,
                    clipped,
                    len(sources),
                    factor,
                )
            add(prefix, usable)
            final = output / "wav" / f"sp{factor:g}"
            tables["wav.scp"] |= {prefix + utt_id: f"{final}/{utt_id}.flac" for utt_id in usable}
        if segments:
            # The copies are whole files.
            whole = tables["text"].keys() - segments.keys()
            write_table(directory / "segments", segments | {key: f"{key} 0 -1" for key in whole})
        for name, table in tables.items():
            write_table(directory / name, table)
        write_table(directory / "spk2utt", speaker_table(tables["utt2spk"]))
    return len(tables["text"])
