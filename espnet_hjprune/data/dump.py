"""Audio as training wants it: one channel, one rate, one format, with lengths by utterance."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from espnet_hjprune.atomic import replaced_directory, write_text
from espnet_hjprune.constants import SAMPLE_RATE
from espnet_hjprune.data import audio
from espnet_hjprune.data.datadir import read_table, speaker_table, write_table
from espnet_hjprune.data.ids import check_scored_ids
from espnet_hjprune.data.sources import (
    AudioSource,
    check_sources,
    check_tables,
    count_commands,
    read_audio_sources,
)
from espnet_hjprune.data.transcripts import plain_transcripts
from espnet_hjprune.errors import HJPruneError
from espnet_hjprune.parallel import parallel_map
from espnet_hjprune.progress import progress_bar

# Utterances that a process converts in one go, and that share a directory or an ark file.
MAX_CHUNK = 500


@dataclass(frozen=True)
class AudioFormat:
    """What to make: one of ``AUDIO_FORMATS``, a rate in Hz, and limits in seconds.

    ``is_scored`` is for test sets, whose utterances count as they are: an empty one stays as one
    without audio, and sclite must be able to hold their names. ``audio_only`` is for trainings
    without labels, which need neither transcripts nor speakers.
    """

    name: str = "flac"
    rate: int = SAMPLE_RATE
    min_seconds: float = 0.0
    max_seconds: float = float("inf")
    is_scored: bool = False
    audio_only: bool = False

    @property
    def container(self) -> str:
        """``flac`` or ``wav``."""
        return self.name.split(".")[0]

    @property
    def is_ark(self) -> bool:
        """Whether many utterances share a file."""
        return self.name.endswith(".ark")


@dataclass(frozen=True)
class FormattedAudio:
    """What became of an utterance.

    Attributes:
        location: its entry in wav.scp; empty when it was left out.
        samples: its length at the new rate.
        skipped: why its audio cannot be used; empty when it can.
        too_short_or_long: left out because of its length.
        is_empty: it has no samples, and counts all the same.
        resampled: it had another rate.
        mixed: it had several channels, of which the first was taken.
        peak: the largest absolute value, if that is more than a file with integers can hold.
    """

    location: str = ""
    samples: int = 0
    skipped: str = ""
    too_short_or_long: bool = False
    is_empty: bool = False
    resampled: bool = False
    mixed: bool = False
    peak: float = 0.0


def _convert(
    item: tuple[str, AudioSource], form: AudioFormat, directory: Path, final_directory: Path
) -> FormattedAudio:
    """Check one utterance's audio and copy it into ``directory`` where it does not fit."""
    utt_id, source = item
    try:
        info = audio.probe(source.path)
        length = info.frames / info.rate
        length = min(length if source.end is None else source.end, length) - source.start
        # What starts behind the end is refused when it is read.
        if length > 0 and not form.min_seconds <= length <= form.max_seconds:
            return FormattedAudio(too_short_or_long=True)
        resampled, mixed = info.rate != form.rate, info.channels > 1
        fits = (info.container, info.subtype) == (form.container.upper(), "PCM_16")
        is_file = not (audio.is_ark_position(source.path) or audio.is_command(source.path))
        if fits and source.is_whole and is_file and not (resampled or mixed or form.is_ark):
            return FormattedAudio(source.path, info.frames)
        samples = audio.read_mono(source.path, form.rate, source.start, source.end)
    except audio.AudioError as error:
        if form.is_scored and isinstance(error, audio.EmptyAudioError):
            return FormattedAudio(is_empty=True)
        return FormattedAudio(skipped=str(error))
    if not len(samples):
        skipped = "" if form.is_scored else "it is shorter than a sample"
        return FormattedAudio(skipped=skipped, is_empty=form.is_scored)
    directory.mkdir(parents=True, exist_ok=True)
    if form.is_ark:
        import kaldiio

        ark = directory / "data_wav.ark"
        start = ark.stat().st_size if ark.exists() else 0
        kaldiio.save_ark(
            str(ark),
            {utt_id: (samples, form.rate)},
            append=True,
            write_function="soundfile",
            write_kwargs={"format": form.container, "subtype": "PCM_16"},
        )
        # The position of the data is behind the key and a space.
        offset = start + len(f"{utt_id} ".encode())
        location = f"{final_directory / ark.name}:{offset}"
    else:
        path = directory / f"{utt_id}.{form.container}"
        audio.write_audio(path, samples, form.rate)
        location = str(final_directory / path.name)
    peak = float(np.abs(samples).max())
    return FormattedAudio(
        location, len(samples), resampled=resampled, mixed=mixed, peak=peak if peak > 1 else 0.0
    )


def _convert_chunk(
    job: tuple[int, Sequence[tuple[str, AudioSource]]],
    form: AudioFormat,
    root: Path,
    final_root: Path,
) -> list[FormattedAudio]:
    """Convert the utterances of one chunk, which shares a directory and an ark file."""
    number, items = job
    name = f"format.{number}"
    return [_convert(item, form, root / name, final_root / name) for item in items]


def _report(source: Path, results: dict[str, FormattedAudio], form: AudioFormat) -> None:
    """Say what was changed and what was left out."""
    empty = [utt_id for utt_id, result in results.items() if result.is_empty]
    skipped = {utt_id: result.skipped for utt_id, result in results.items() if result.skipped}
    for utt_id, reason in skipped.items():
        logging.warning("utterance %s is left out: %s", utt_id, reason)
    loud = {utt_id: result.peak for utt_id, result in results.items() if result.peak}
    loudest = max(loud, key=lambda utt_id: loud[utt_id], default="")
    counts = {
        "left out because their audio is unusable": len(skipped),
        f"left out because they are not {form.min_seconds:g} to {form.max_seconds:g} s long": (
            sum(result.too_short_or_long for result in results.values())
        ),
        f"without a single sample, such as {min(empty, default='')}, and count as not recognised": (
            len(empty)
        ),
        f"resampled to {form.rate} Hz": sum(result.resampled for result in results.values()),
        "reduced to their first channel": sum(result.mixed for result in results.values()),
        "clipped, as samples must lie between -1 and 1 (or be integers), and those of "
        f"{loudest} reach {loud.get(loudest, 0):g}": len(loud),
    }
    for what, count in counts.items():
        if count:
            logging.warning("%s: %d of %d utterances are %s", source, count, len(results), what)
    if not any(result.location for result in results.values()):
        example = f" ({next(iter(skipped.values()))})" if skipped else ""
        raise HJPruneError(
            f"no utterance of {source} is left: all {len(results)} have unusable audio or a length "
            f"outside the limits{example}; correct {source}/wav.scp"
        )


def format_data(source: Path, output: Path, form: AudioFormat, nj: int = 4) -> int:
    """Make a directory that training reads from a data directory.

    It gets wav.scp, text, utt2spk, spk2utt, utt2num_samples, feats_type and audio_format; with
    ``audio_only`` no text, utt2spk and spk2utt. A file that already fits is referred to, any other
    is converted into ``output/data``. Unusable audio is named, left out and counted. Transcripts
    get their plain form (:mod:`espnet_hjprune.data.transcripts`).

    Args:
        source: a data directory with wav.scp, text, utt2spk (with ``audio_only`` wav.scp alone)
            and, where utterances are parts of recordings, segments.
        output: the directory to make; a former one is replaced as a whole.
        form: format, rate and limits.
        nj: number of processes.

    Returns:
        The number of utterances in ``output``.

    Raises:
        HJPruneError: an utterance lacks a transcript, a speaker or a file, has a name that cannot
            be used, or none is usable.
    """
    sources = read_audio_sources(source)
    text, utt2spk = {}, {}
    if form.audio_only:
        check_sources(source, sources)
    else:
        text, utt2spk = (read_table(source / name) for name in ("text", "utt2spk"))
        text = plain_transcripts(text, source / "text")
        check_tables(source, sources, text, utt2spk)
    if form.is_scored:
        check_scored_ids({utt_id: utt2spk[utt_id] for utt_id in sources}, source / "utt2spk")
    count_commands(source, sources)
    items = sorted(sources.items())
    # Eight chunks a process: the last ones end at about the same time.
    size = min(max(len(items) // (8 * nj), 1), MAX_CHUNK)
    chunks = [items[start : start + size] for start in range(0, len(items), size)]
    with replaced_directory(output) as directory:
        convert = partial(
            _convert_chunk, form=form, root=directory / "data", final_root=output / "data"
        )
        results: dict[str, FormattedAudio] = {}
        with (
            parallel_map(nj) as run,
            progress_bar(total=len(items), desc=f"format {source.name}", unit="utt") as progress,
        ):
            converted = run(convert, enumerate(chunks, 1))
            for chunk, chunk_results in zip(chunks, converted, strict=True):
                results |= {utt_id: r for (utt_id, _), r in zip(chunk, chunk_results, strict=True)}
                progress.update(len(chunk))
        _report(source, results, form)
        usable = {utt_id: result for utt_id, result in results.items() if result.location}
        write_table(directory / "wav.scp", {utt_id: r.location for utt_id, r in usable.items()})
        write_table(
            directory / "utt2num_samples", {utt_id: r.samples for utt_id, r in usable.items()}
        )
        kept = [u for u, r in results.items() if r.location or r.is_empty]
        if not form.audio_only:
            write_table(directory / "text", {utt_id: text[utt_id] for utt_id in kept})
            kept_speakers = {utt_id: utt2spk[utt_id] for utt_id in kept}
            write_table(directory / "utt2spk", kept_speakers)
            write_table(directory / "spk2utt", speaker_table(kept_speakers))
        write_text(directory / "feats_type", "raw\n")
        write_text(directory / "audio_format", f"{form.name}\n")
    return len(kept)
