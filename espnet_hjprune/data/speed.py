"""Speed perturbation: copies of a training set that are spoken faster or slower."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np

from espnet_hjprune.atomic import replaced_directory
from espnet_hjprune.constants import SAMPLE_RATE
from espnet_hjprune.data import audio
from espnet_hjprune.data.datadir import read_table, speaker_table, write_table
from espnet_hjprune.errors import HJPruneError
from espnet_hjprune.progress import progress_bar


def perturb_samples(source: str, factor: float) -> np.ndarray:
    """Samples of ``source`` at 16 kHz, ``factor`` times as fast, the pitch changing along.

    Raises:
        AudioError: the file cannot be decoded.
    """
    return audio.resample(
        audio.read_mono(source, SAMPLE_RATE), round(SAMPLE_RATE * factor), SAMPLE_RATE
    )


def _perturb(item: tuple[str, str], factor: float, directory: Path) -> bool:
    """Write one perturbed copy; false if the audio cannot be used."""
    utt_id, source = item
    try:
        samples = perturb_samples(source, factor)
    except audio.AudioError as error:
        logging.warning("%s: %s", utt_id, error)
        return False
    if len(samples) == 0:
        return False
    audio.write_audio(directory / f"{utt_id}.flac", samples, SAMPLE_RATE)
    return True


def perturb_speed(source: Path, output: Path, factors: Sequence[float], nj: int = 4) -> int:
    """Make a data directory with a copy of every utterance for every factor.

    Utterances and speakers of a copy are called ``sp<factor>-<name>``; factor 1 is the original.

    Args:
        source: a data directory with wav.scp, text and utt2spk.
        output: the directory to make; a former one is replaced as a whole.
        factors: speeds, between 0.5 and 2.
        nj: number of processes.

    Returns:
        The number of utterances in ``output``.

    Raises:
        HJPruneError: a factor that is not sensible, or a file that is missing.
    """
    for factor in factors:
        if not 0.5 <= factor <= 2:
            raise HJPruneError(f"the speed factor {factor} is not between 0.5 and 2; correct it")
    if (source / "segments").exists():
        raise HJPruneError(
            f"{source}/segments is not supported with speed perturbation; cut the audio into "
            "utterances"
        )
    wav_scp, text, utt2spk = (read_table(source / name) for name in ("wav.scp", "text", "utt2spk"))
    tables: dict[str, dict[str, str]] = {"wav.scp": {}, "text": {}, "utt2spk": {}}

    def add(prefix: str, utt_id: str, location: str) -> None:
        tables["wav.scp"][prefix + utt_id] = location
        tables["text"][prefix + utt_id] = text[utt_id]
        tables["utt2spk"][prefix + utt_id] = prefix + utt2spk[utt_id]

    with replaced_directory(output) as directory, ProcessPoolExecutor(nj) as pool:
        for factor in dict.fromkeys(factors):
            if factor == 1:
                for utt_id, location in wav_scp.items():
                    add("", utt_id, location)
                continue
            prefix = f"sp{factor:g}-"
            copies = directory / "wav" / f"sp{factor:g}"
            copies.mkdir(parents=True)
            # Few at a time, for a smooth progress bar; many enough not to wait for one another.
            done = pool.map(
                partial(_perturb, factor=factor, directory=copies), wav_scp.items(), chunksize=16
            )
            progress = progress_bar(done, total=len(wav_scp), desc=f"speed {factor:g}", unit="utt")
            for utt_id, usable in zip(wav_scp, progress, strict=True):
                if usable:
                    final = output / "wav" / f"sp{factor:g}" / f"{utt_id}.flac"
                    add(prefix, utt_id, str(final))
        for name, table in tables.items():
            write_table(directory / name, table)
        write_table(directory / "spk2utt", speaker_table(tables["utt2spk"]))
    return len(tables["wav.scp"])
