"""Kaldi-style data directories: reading, checking and writing them in one piece.

A table is a text file with one ``key value`` pair a line. Tables are written sorted by key in
code point order, which is the C locale's order that Kaldi and ESPnet expect.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from espnet_hjprune.atomic import replaced_directory, write_text
from espnet_hjprune.errors import HJPruneError


@dataclass(frozen=True)
class Segment:
    """Part of a recording, ``start`` to ``end`` in seconds."""

    recording: str
    start: float
    end: float


@dataclass(frozen=True)
class Utterance:
    """One utterance of a corpus: its audio file, its transcript and who speaks.

    ``segment`` tells which part of the file it is; ``None`` for all of it.
    """

    utt_id: str
    speaker: str
    audio: str
    text: str
    segment: Segment | None = None


def read_table(path: str | Path) -> dict[str, str]:
    """Read ``key value`` lines; a line with a key only has the value ``""``.

    Raises:
        HJPruneError: the file is missing, is no UTF-8 text, or has an empty line or a key twice.
    """
    path = Path(path)
    table: dict[str, str] = {}
    try:
        with path.open(encoding="utf-8") as lines:
            for number, line in enumerate(lines, 1):
                key, *value = line.rstrip().split(maxsplit=1) or [""]
                if not key:
                    raise HJPruneError(f"{path}:{number} is an empty line; remove it")
                if key in table:
                    raise HJPruneError(f"{path}:{number} has '{key}' a second time; remove one")
                table[key] = value[0] if value else ""
    except FileNotFoundError:
        raise HJPruneError(f"{path} does not exist; run the earlier stages first") from None
    except UnicodeDecodeError as error:
        raise HJPruneError(f"{path} is no UTF-8 text ({error.reason}); convert it") from None
    return table


def write_table(path: str | Path, table: Mapping[str, object]) -> None:
    """Write ``key value`` lines sorted by key."""
    write_text(path, "".join(f"{key} {table[key]}\n" for key in sorted(table)))


def read_segments(path: str | Path) -> dict[str, Segment]:
    """Read ``utterance recording start end`` lines, times in seconds.

    Raises:
        HJPruneError: the file is missing or a line has another form.
    """
    segments: dict[str, Segment] = {}
    for utt_id, value in read_table(path).items():
        try:
            recording, start, end = value.split()
            segments[utt_id] = Segment(recording, float(start), float(end))
        except ValueError:
            raise HJPruneError(
                f"{path} has for {utt_id} no 'recording start end', but '{value}'; correct it"
            ) from None
        if not 0 <= segments[utt_id].start < segments[utt_id].end:
            raise HJPruneError(
                f"{path} has for {utt_id} a segment from {start} to {end} s; correct it"
            )
    return segments


def speaker_table(utt2spk: Mapping[str, str]) -> dict[str, str]:
    """Turn utt2spk into spk2utt: every speaker with the sorted list of his utterances."""
    spk2utt: dict[str, list[str]] = {}
    for utt_id in sorted(utt2spk):
        spk2utt.setdefault(utt2spk[utt_id], []).append(utt_id)
    return {speaker: " ".join(utt_ids) for speaker, utt_ids in spk2utt.items()}


def write_data_dir(
    directory: str | Path,
    utterances: Iterable[Utterance],
    genders: Mapping[str, str] | None = None,
) -> int:
    """Write wav.scp, text, utt2spk, spk2utt and spk2gender; return the number of utterances.

    Where utterances are parts of recordings, wav.scp lists the recordings, and ``segments`` the
    parts.

    Args:
        directory: the data directory; a former one is replaced as a whole.
        utterances: the utterances in any order, all or none of them segments.
        genders: ``m`` or ``f`` of at least every speaker that occurs; ``None`` for a corpus that
            does not tell, which gets no spk2gender.

    Raises:
        HJPruneError: an utterance occurs twice, or a speaker's gender is unknown.
    """
    by_id: dict[str, Utterance] = {}
    for utterance in utterances:
        if utterance.utt_id in by_id:
            raise HJPruneError(
                f"utterance {utterance.utt_id} occurs twice, as {by_id[utterance.utt_id].audio} "
                f"and {utterance.audio}; remove one"
            )
        by_id[utterance.utt_id] = utterance
    utt2spk = {utt_id: utterance.speaker for utt_id, utterance in by_id.items()}
    speakers = set(utt2spk.values())
    unknown = [] if genders is None else sorted(speakers - genders.keys())
    if unknown:
        raise HJPruneError(f"the gender of speaker {unknown[0]} is unknown; add the speaker")
    with replaced_directory(directory) as new:
        segments = {key: value.segment for key, value in by_id.items() if value.segment}
        audio = {
            value.segment.recording if value.segment else key: value.audio
            for key, value in by_id.items()
        }
        write_table(new / "wav.scp", audio)
        if segments:
            lines = {k: f"{s.recording} {s.start:.3f} {s.end:.3f}" for k, s in segments.items()}
            write_table(new / "segments", lines)
        write_table(new / "text", {key: value.text for key, value in by_id.items()})
        write_table(new / "utt2spk", utt2spk)
        write_table(new / "spk2utt", speaker_table(utt2spk))
        if genders is not None:
            write_table(new / "spk2gender", {speaker: genders[speaker] for speaker in speakers})
    return len(by_id)


def combine_data_dirs(sources: Iterable[str | Path], directory: str | Path) -> int:
    """Join data directories into one; return its number of utterances.

    Raises:
        HJPruneError: a file is missing, or an utterance is in two of the directories.
    """
    utterances: list[Utterance] = []
    genders: dict[str, str] = {}
    for source in map(Path, sources):
        wav_scp, text, utt2spk = (
            read_table(source / name) for name in ("wav.scp", "text", "utt2spk")
        )
        genders |= read_table(source / "spk2gender")
        utterances += [
            Utterance(utt_id, utt2spk[utt_id], audio, text[utt_id])
            for utt_id, audio in wav_scp.items()
        ]
    return write_data_dir(directory, utterances, genders)
