"""Audio files: looking into them, reading them as mono at one rate, and simple signal work.

Where a file is read, its name may also be a position in a Kaldi archive, ``archive.ark:123``, or a
command that writes audio, ``sox a.sph -t wav - |``.
"""

from __future__ import annotations

import io
import os
import re
import subprocess
from dataclasses import dataclass
from functools import lru_cache
from math import gcd
from pathlib import Path

import numpy as np
import soundfile

from espnet_hjprune.errors import HJPruneError

_ARK_POSITION = re.compile(r"(.+\.ark):(\d+)", re.DOTALL)
# What libsndfile notes about a header that promises another length (bytes) than there is.
_LENGTH_NOTE = re.compile(r"^\s*([A-Za-z ]+?)\s*: (\d+) \(should be (\d+)\)", re.MULTILINE)
# Chunks of samples, of containers in which other chunks may follow.
_SAMPLE_CHUNKS = {"WAV": "data", "WAVEX": "data", "AIFF": "SSND", "AU": "Data Size"}
# Programs that write to a pipe cannot know the length, and promise about as much as they can.
_UNKNOWN_LENGTH = 0x7FFF0000
# Bytes of SPHERE's header, and the samples per channel in it.
_SPHERE_HEAD = 1024
_SPHERE_LENGTH = re.compile(rb"^sample_count -i (\d+)", re.MULTILINE)


class AudioError(HJPruneError):
    """An audio file that cannot be used; the message says which and why."""


class EmptyAudioError(AudioError):
    """A readable audio file without a single sample."""


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


def is_command(location: str) -> bool:
    """Whether this is a command whose output is the audio."""
    return location.endswith("|")


# One recording's segments come one after another.
@lru_cache(maxsize=1)
def _output_of(command: str) -> bytes:
    """What a command of wav.scp writes.

    Raises:
        AudioError: it fails or writes nothing.
    """
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", command.removesuffix("|")],
        stdin=subprocess.DEVNULL,
        capture_output=True,
    )
    if done.returncode or not done.stdout:
        words = done.stderr.decode("utf-8", "replace").strip().split("\n")[-1]
        reason = words or f"it ended with status {done.returncode}"
        raise AudioError(f"the command '{command}' gives no audio ({reason})")
    return done.stdout


def _open(path: str | Path) -> soundfile.SoundFile:
    """Open a file, or the audio that Kaldi (WAV) or kaldiio (any form) put into an archive."""
    location = os.fspath(path)
    if is_command(location):
        return soundfile.SoundFile(io.BytesIO(_output_of(location)))
    found = _ARK_POSITION.fullmatch(location)
    if not found:
        return soundfile.SoundFile(location)
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


def _is_cut(audio: soundfile.SoundFile) -> bool:
    """Whether the header promises more than there is, which libsndfile passes over."""
    chunk = _SAMPLE_CHUNKS.get(audio.format)
    for name, promised, there in _LENGTH_NOTE.findall(audio.extra_info):
        if chunk in (None, name) and int(there) < int(promised) < _UNKNOWN_LENGTH:
            return True
    if audio.format != "NIST":
        return False
    if isinstance(audio.name, io.BytesIO):
        head = bytes(audio.name.getbuffer()[:_SPHERE_HEAD])
    else:
        with open(audio.name, "rb") as file:
            head = file.read(_SPHERE_HEAD)
    found = _SPHERE_LENGTH.search(head)
    return found is not None and int(found[1]) > audio.frames


def _named(path: str | Path) -> str:
    """The audio as messages call it."""
    if is_command(os.fspath(path)):
        return f"the output of the command '{path}'"
    return f"audio file {path}"


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
            cut = _is_cut(audio)
            if info.frames > 0 and not cut:
                audio.seek(info.frames - 1)
                cut = len(audio.read(1)) != 1
    except (soundfile.LibsndfileError, OSError) as error:
        found = _ARK_POSITION.fullmatch(os.fspath(path))
        exists = is_command(os.fspath(path)) or Path(found[1] if found else path).exists()
        reason = f"is unreadable ({error})" if exists else "does not exist"
        raise AudioError(f"{_named(path)} {reason}") from None
    if cut:
        raise AudioError(f"{_named(path)} is truncated")
    if info.frames == 0:
        raise EmptyAudioError(f"{_named(path)} is empty")
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
        AudioError: the file cannot be decoded to its end, ends before ``start``, or has samples
            that are no finite numbers.
    """
    try:
        with _open(path) as audio:
            file_rate = audio.samplerate
            first = round(start * file_rate)
            if first and first >= audio.frames:
                raise AudioError(f"{_named(path)} ends before {start:g} s")
            audio.seek(first)
            count = -1 if end is None else round(end * file_rate) - first
            samples = audio.read(count, dtype="float32", always_2d=True)
    except (soundfile.LibsndfileError, OSError) as error:
        raise AudioError(f"{_named(path)} is unreadable ({error})") from None
    if not np.isfinite(samples[:, 0]).all():
        raise AudioError(f"{_named(path)} has NaN or infinite samples")
    return resample(np.ascontiguousarray(samples[:, 0]), file_rate, rate)


def write_audio(path: str | Path, samples: np.ndarray, rate: int) -> None:
    """Write mono 16-bit audio; the suffix of ``path`` is the format."""
    name = os.fspath(path)
    # Given, as soundfile finds no suffix behind a name of dots alone.
    form = name.rpartition(".")[2]
    soundfile.write(name, samples, rate, subtype="PCM_16", format=form)


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
