"""Audio files: looking into them, reading them as mono at one rate, and simple signal work.

Where a file is read, its name may also be a position in a Kaldi archive, ``archive.ark:123``.
"""

from __future__ import annotations

import io
import os
import re
from dataclasses import dataclass
from math import gcd
from pathlib import Path

import numpy as np
import soundfile

from espnet_hjprune.errors import HJPruneError

_ARK_POSITION = re.compile(r"(.+\.ark):(\d+)", re.DOTALL)


class AudioError(HJPruneError):
    """An audio file that cannot be used; the message says which and why."""


@dataclass(frozen=True)
class AudioInfo:
    """What a file's header says: samples per channel, Hz, channels, container and coding."""

    frames: int
    rate: int
    channels: int
    container: str
    subtype: str


def parse_rate(text: str) -> int:
    """Turn ``16k``, ``22.05k`` or ``16000`` into a sampling rate in Hz.

    Raises:
        HJPruneError: ``text`` is no such number.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)(k?)", text.strip().lower())
    rate = round(float(match[1]) * (1000 if match[2] else 1)) if match else 0
    if rate <= 0:
        raise HJPruneError(f"'{text}' is no sampling rate; give one such as 16k or 16000")
    return rate


def is_ark_position(location: str) -> bool:
    """Whether this is ``archive.ark:123`` instead of a file."""
    return _ARK_POSITION.fullmatch(location) is not None


def _open(path: str | Path) -> soundfile.SoundFile:
    """Open a file, or the audio that Kaldi (WAV) or kaldiio (any form) put into an archive."""
    found = _ARK_POSITION.fullmatch(os.fspath(path))
    if not found:
        return soundfile.SoundFile(os.fspath(path))
    with open(found[1], "rb") as ark:
        start = int(found[2])
        ark.seek(start)
        head = ark.read(8)
        if head.startswith(b"RIFF"):
            size = int.from_bytes(head[4:8], "little") + 8
        elif head.startswith(b"AUDIO") and len(head) == 8:
            # The length of the length, then the length, then a file of any audio format.
            start += 6 + head[5]
            ark.seek(-2, os.SEEK_CUR)
            size = int.from_bytes(ark.read(head[5]), "little")
        else:
            raise AudioError(f"there is no audio at {path}, neither WAV nor as ESPnet writes it")
        ark.seek(start)
        return soundfile.SoundFile(io.BytesIO(ark.read(size)))


def probe(path: str | Path) -> AudioInfo:
    """Read the header of an audio file and make sure that the last sample is there.

    Raises:
        AudioError: the file is missing, empty, truncated or no audio.
    """
    try:
        with _open(path) as audio:
            info = AudioInfo(
                audio.frames, audio.samplerate, audio.channels, audio.format, audio.subtype
            )
            if info.frames > 0:
                audio.seek(info.frames - 1)
                if len(audio.read(1)) != 1:
                    raise AudioError(f"audio file {path} is truncated")
    except (soundfile.LibsndfileError, OSError) as error:
        found = _ARK_POSITION.fullmatch(os.fspath(path))
        exists = Path(found[1] if found else path).exists()
        reason = f"is unreadable ({error})" if exists else "does not exist"
        raise AudioError(f"audio file {path} {reason}") from None
    if info.frames == 0:
        raise AudioError(f"audio file {path} is empty")
    return info


def resample(samples: np.ndarray, rate: int, target_rate: int) -> np.ndarray:
    """Change the sampling rate (Hz) of a mono signal with a polyphase low-pass filter."""
    if rate == target_rate:
        return samples
    # Imported here: it takes longer to import than all else in a run that needs no resampling.
    from scipy.signal import resample_poly

    divisor = gcd(rate, target_rate)
    return resample_poly(samples, target_rate // divisor, rate // divisor).astype(samples.dtype)


def read_mono(
    path: str | Path, rate: int, start: float = 0.0, end: float | None = None
) -> np.ndarray:
    """Read the first channel of a file as float32 samples in [-1, 1] at ``rate`` Hz.

    Args:
        path: the file.
        rate: of the result; audio of another rate is resampled.
        start: seconds to leave out.
        end: where to stop, in seconds; ``None`` for the end of the file.

    Raises:
        AudioError: the file cannot be decoded to its end, or starts later than ``start``.
    """
    try:
        with _open(path) as audio:
            file_rate = audio.samplerate
            first = round(start * file_rate)
            if first and first >= audio.frames:
                raise AudioError(f"audio file {path} ends before {start:g} s")
            audio.seek(first)
            count = -1 if end is None else round(end * file_rate) - first
            samples = audio.read(count, dtype="float32", always_2d=True)
    except (soundfile.LibsndfileError, OSError) as error:
        raise AudioError(f"audio file {path} is unreadable ({error})") from None
    return resample(np.ascontiguousarray(samples[:, 0]), file_rate, rate)


def write_audio(path: str | Path, samples: np.ndarray, rate: int) -> None:
    """Write mono 16-bit audio; the suffix of ``path`` is the format."""
    soundfile.write(os.fspath(path), samples, rate, subtype="PCM_16")


def trim_silence(
    samples: np.ndarray, rate: int, padding: float = 0.1, threshold: float = 0.02
) -> np.ndarray:
    """Cut silence at both ends, leaving ``padding`` seconds of it where there was as much.

    Silence is what stays below ``threshold`` times the peak.
    """
    loud = np.flatnonzero(np.abs(samples) > threshold * np.abs(samples).max(initial=0.0))
    if not len(loud):
        return samples
    margin = round(padding * rate)
    return samples[max(loud[0] - margin, 0) : loud[-1] + margin + 1]


def pink_noise(length: int, generator: np.random.Generator) -> np.ndarray:
    """Noise of unit power whose power falls by 3 dB per octave, as float32."""
    spectrum = np.fft.rfft(generator.standard_normal(length))
    spectrum /= np.sqrt(np.arange(1, len(spectrum) + 1))
    noise = np.fft.irfft(spectrum, n=length)
    return (noise / np.sqrt(np.mean(noise**2))).astype(np.float32)


def add_noise(samples: np.ndarray, snr_db: float, generator: np.random.Generator) -> np.ndarray:
    """Add pink noise at a signal-to-noise ratio in dB."""
    power = float(np.mean(np.square(samples, dtype=np.float64)))
    scale = np.sqrt(power / 10 ** (snr_db / 10))
    return samples + np.float32(scale) * pink_noise(len(samples), generator)
