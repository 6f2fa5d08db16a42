"""Where the audio of a data directory is, and whether its tables fit together."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

from espnet_hjprune.data import audio
from espnet_hjprune.data.datadir import read_segments, read_table
from espnet_hjprune.data.ids import check_ids, check_speakers, same_letters, shown
from espnet_hjprune.errors import HJPruneError


@dataclass(frozen=True)
class AudioSource:
    """Where an utterance's audio is: a file, or its part from ``start`` to ``end`` seconds.

    The file may also be a position in an archive or a command (:mod:`espnet_hjprune.data.audio`);
    ``end`` is ``None`` for its end.
    """

    path: str
    start: float = 0.0
    end: float | None = None

    @property
    def is_whole(self) -> bool:
        """Whether it is the whole file."""
        return self.start == 0 and self.end is None


def read_audio_sources(directory: Path) -> dict[str, AudioSource]:
    """Where the audio of every utterance of a data directory is, by ``wav.scp`` and ``segments``.

    Raises:
        HJPruneError: a file is missing or wrong, or a segment's recording is not in wav.scp.
    """
    files = read_table(directory / "wav.scp")
    if not (directory / "segments").exists():
        return {utt_id: AudioSource(file) for utt_id, file in files.items()}
    sources = {}
    for utt_id, segment in read_segments(directory / "segments").items():
        if segment.recording not in files:
            raise HJPruneError(
                f"{segment.recording} of {directory}/segments has no audio in {directory}/wav.scp; "
                "add it"
            )
        sources[utt_id] = AudioSource(files[segment.recording], segment.start, segment.end)
    return sources


def check_sources(source: Path, sources: dict[str, AudioSource]) -> None:
    """Make sure that every utterance has audio and a usable name.

    Args:
        source: the data directory, for messages.
        sources: its audio.

    Raises:
        HJPruneError: something is missing, or a name cannot be used
            (:mod:`espnet_hjprune.data.ids`).
    """
    listed = _listed(source)
    if not sources:
        raise HJPruneError(f"{listed} is empty; prepare the data again")
    check_ids(sources, listed)
    for utt_id, entry in sources.items():
        if not entry.path:
            raise HJPruneError(
                f"utterance {shown(utt_id)} has no audio file in {source}/wav.scp; add it"
            )


def _listed(source: Path) -> Path:
    """The table that lists the utterances of a data directory."""
    return source / ("segments" if (source / "segments").exists() else "wav.scp")


def check_tables(
    source: Path, sources: dict[str, AudioSource], text: dict[str, str], utt2spk: dict[str, str]
) -> None:
    """Make sure that every utterance has audio, a transcript and a speaker, and a usable name.

    Args:
        source: the data directory, for messages.
        sources: its audio.
        text: its transcripts.
        utt2spk: its speakers.

    Raises:
        HJPruneError: something is missing, or a name cannot be used
            (:mod:`espnet_hjprune.data.ids`).
    """
    check_sources(source, sources)
    check_ids(text, source / "text")
    for utt_id in sources:
        if not text.get(utt_id):
            hint = "" if utt_id in text else same_letters(utt_id, text)
            raise HJPruneError(
                f"utterance {shown(utt_id)} has no transcript in {source}/text{hint}; add it, or "
                "remove the utterance"
            )
        if utt_id not in utt2spk:
            hint = same_letters(utt_id, utt2spk)
            raise HJPruneError(
                f"utterance {shown(utt_id)} has no speaker in {source}/utt2spk{hint}; add it"
            )
    check_speakers({utt_id: utt2spk[utt_id] for utt_id in sources}, source / "utt2spk")
    without_audio = sorted(text.keys() - sources.keys())
    if without_audio:
        raise HJPruneError(
            f"utterance {shown(without_audio[0])} of {source}/text has no audio in "
            f"{_listed(source)}; add it, or remove the transcript"
        )


def count_commands(source: Path, sources: dict[str, AudioSource]) -> None:
    """Say in a warning how many commands are run for the audio."""
    commands = {entry.path for entry in sources.values() if audio.is_command(entry.path)}
    if commands:
        logging.warning(
            "%s/wav.scp: the audio of %d recordings is the output of commands, which are run, such "
            "as '%s'",
            source,
            len(commands),
            min(commands),
        )
