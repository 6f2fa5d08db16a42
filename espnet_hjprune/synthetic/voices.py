"""Speech for small test corpora from the synthesisers espeak-ng and flite.

Nothing here knows what is said or how a corpus is laid out: a :class:`SyntheticRecording` is a
text, a voice and a file to write.
"""

from __future__ import annotations

import io
import shlex
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from pathlib import Path
from random import Random
from typing import Protocol
from zlib import crc32

import numpy as np
import soundfile

from espnet_hjprune.constants import SAMPLE_RATE
from espnet_hjprune.data import audio
from espnet_hjprune.errors import HJPruneError
from espnet_hjprune.parallel import parallel_map
from espnet_hjprune.progress import progress_bar

ACCENTS = ("en-us", "en-gb", "en-gb-x-rp", "en-gb-scotland")
VARIANTS = ("f1", "f2", "f3", "f4", "f5", "m1", "m2", "m3", "m4", "m5", "m6", "m7")

# Name, gender and fundamental frequency in Hz
FLITE_VOICES = (("awb", "m", 110), ("rms", "m", 105), ("slt", "f", 175), ("kal", "m", 100))


def _run(command: Sequence[str]) -> bytes:
    """Return what a synthesiser writes to standard output."""
    try:
        result = subprocess.run(command, capture_output=True, check=True)
    except FileNotFoundError:
        raise HJPruneError(
            f"the speech synthesiser {command[0]} is not installed; run tools/setup.sh or install "
            f"the package '{command[0]}'"
        ) from None
    except subprocess.CalledProcessError as error:
        reason = error.stderr.decode(errors="replace").strip() or f"status {error.returncode}"
        raise HJPruneError(f"'{shlex.join(command)}' failed: {reason}") from None
    return result.stdout


class Voice(Protocol):
    """A speaker: a voice of a synthesiser."""

    @property
    def gender(self) -> str:
        """``m`` or ``f``."""
        ...

    def wave(self, text: str) -> bytes:
        """``text`` spoken, as the content of a WAV file."""
        ...

    def varied(self, random: Random) -> Voice:
        """The same speaker with a slightly different speed and pitch."""
        ...


@dataclass(frozen=True)
class EspeakVoice:
    """A voice of espeak-ng.

    Attributes:
        name: language and variant, such as ``en-us+f2``.
        gender: ``m`` or ``f``.
        rate: words per minute.
        pitch: 0 ... 99.
    """

    name: str
    gender: str
    rate: int = 160
    pitch: int = 50

    def wave(self, text: str) -> bytes:
        """``text`` spoken, as the content of a WAV file."""
        options = ["-v", self.name, "-s", str(self.rate), "-p", str(self.pitch)]
        return _run(["espeak-ng", *options, "--stdout", "--", text])

    def varied(self, random: Random) -> EspeakVoice:
        """The same speaker with a slightly different speed and pitch."""
        return replace(
            self,
            rate=round(self.rate * random.uniform(0.95, 1.05)),
            pitch=min(max(self.pitch + random.randint(-3, 3), 0), 99),
        )


@dataclass(frozen=True)
class FliteVoice:
    """A voice of flite.

    Attributes:
        name: one of those that ``flite -lv`` lists, such as ``slt``.
        gender: ``m`` or ``f``.
        stretch: factor on all durations.
        pitch: mean fundamental frequency in Hz.
    """

    name: str
    gender: str
    stretch: float = 1.0
    pitch: int = 120

    def wave(self, text: str) -> bytes:
        """``text`` spoken, as the content of a WAV file."""
        options = ["--setf", f"duration_stretch={self.stretch}"]
        options += ["--setf", f"int_f0_target_mean={self.pitch}"]
        return _run(["flite", "-voice", self.name, *options, "-t", text, "-o", "/dev/stdout"])

    def varied(self, random: Random) -> FliteVoice:
        """The same speaker with a slightly different speed and pitch."""
        return replace(
            self,
            stretch=round(self.stretch * random.uniform(0.95, 1.05), 3),
            pitch=round(self.pitch * random.uniform(0.95, 1.05)),
        )


@dataclass(frozen=True)
class SyntheticRecording:
    """One audio file to make.

    Attributes:
        path: the file; its suffix is the format.
        text: what is said.
        voice: who says it.
        snr_db: signal-to-noise ratio in dB of added noise; None for a clean recording.
    """

    path: Path
    text: str
    voice: Voice
    snr_db: float | None = None


def espeak_names(random: Random) -> list[tuple[str, str]]:
    """The English voices of espeak-ng with their genders, shuffled, women and men by turns."""
    names = [f"{accent}+{variant}" for accent, variant in product(ACCENTS, VARIANTS)]
    random.shuffle(names)
    by_gender = {gender: [n for n in names if f"+{gender}" in n] for gender in "fm"}
    ordered: list[tuple[str, str]] = []
    while any(by_gender.values()):
        ordered += [(group.pop(), gender) for gender, group in by_gender.items() if group]
    return ordered


def _record(recording: SyntheticRecording, rate: int, seed: int) -> float:
    """Make one recording and return its length in seconds."""
    # Seeded by the file's name: the result depends neither on the order nor on the workers.
    key = f"{seed} {recording.path.name}"
    random, generator = Random(key), np.random.default_rng(crc32(key.encode()))
    wave = recording.voice.varied(random).wave(recording.text)
    try:
        samples, wave_rate = soundfile.read(io.BytesIO(wave), dtype="float32")
    except soundfile.LibsndfileError as error:
        raise HJPruneError(
            f"no audio came back for '{recording.text}' from {recording.voice} ({error})"
        ) from None
    samples = audio.trim_silence(audio.resample(samples, wave_rate, rate), rate)
    if recording.snr_db is not None:
        samples = audio.add_noise(samples, recording.snr_db, generator)
    peak = float(np.abs(samples).max(initial=0.0))
    if peak == 0.0:
        raise HJPruneError(f"'{recording.text}' from {recording.voice} is silent")
    recording.path.parent.mkdir(parents=True, exist_ok=True)
    # Loudness differs as that of real recordings does, and nothing is clipped.
    audio.write_audio(recording.path, samples * (random.uniform(0.3, 0.8) / peak), rate)
    return len(samples) / rate


def record_all(
    recordings: Sequence[SyntheticRecording], rate: int = SAMPLE_RATE, seed: int = 0, nj: int = 2
) -> list[float]:
    """Make all recordings, ``nj`` at a time, and return their lengths in seconds.

    Args:
        recordings: what to make.
        rate: sampling rate of the files in Hz.
        seed: of noise, loudness and the small differences between a speaker's utterances.
        nj: number of processes.

    Raises:
        HJPruneError: a synthesiser is missing or failed, or ``nj`` is less than one.
    """
    if nj < 1:
        raise HJPruneError(f"--nj is a whole number from 1, not {nj}")
    with parallel_map(nj, chunksize=8) as run:
        lengths = run(partial(_record, rate=rate, seed=seed), recordings)
        progress = progress_bar(lengths, total=len(recordings), desc="synthesis", unit="utt")
        return list(progress)
