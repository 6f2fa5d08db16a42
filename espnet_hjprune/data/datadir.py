"""Kaldi-style data directories: reading, checking and writing them in one piece.

A table is a text file with one ``key value`` pair a line. Tables are written sorted by key in
code point order, which is the C locale's order that Kaldi and ESPnet expect.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from espnet_hjprune.atomic import replaced_directory, write_text
from espnet_hjprune.data.lines import read_lines
from espnet_hjprune.errors import HJPruneError


@dataclass(frozen=True)
class Segment:
    """Part of a recording, ``start`` to ``end`` in seconds; ``None`` for its end."""

    recording: str
    start: float
    end: float | None


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
        HJPruneError: the file is missing, is no UTF-8 text, or has a key twice, an empty line
            before its end, or a carriage return within a line.
    """
    table: dict[str, str] = {}
    try:
        lines = read_lines(path)
    except FileNotFoundError:
        raise HJPruneError(f"{path} does not exist; run the earlier stages first") from None
    for number, line in enumerate(lines, 1):
        key, *value = line.rstrip().split(maxsplit=1) or [""]
        if not key:
            raise HJPruneError(f"{path}:{number} is an empty line; remove it")
        if key in table:
            raise HJPruneError(f"{path}:{number} has '{key}' a second time; remove one")
        table[key] = value[0] if value else ""
    return table


def write_table(path: str | Path, table: Mapping[str, object]) -> None:
    """Write ``key value`` lines sorted by key."""
    write_text(path, "".join(f"{key} {table[key]}\n" for key in sorted(table)))


def read_segments(path: str | Path) -> dict[str, Segment]:
    """Read ``utterance recording start end`` lines, times in seconds; -1 is a recording's end.

    Raises:
        HJPruneError: the file is missing or a line has another form.
    """
    segments: dict[str, Segment] = {}
    for utt_id, value in read_table(path).items():
        try:
            recording, start, end = value.split()
            stop = None if float(end) == -1 else float(end)
            segments[utt_id] = Segment(recording, float(start), stop)
        except ValueError:
            raise HJPruneError(
                f"{path} has for {utt_id} no 'recording start end', but '{value}'; correct it"
            ) from None
        if not 0 <= segments[utt_id].start < (math.inf if stop is None else stop):
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


def _segment_line(segment: Segment) -> str:
    """The segment as ``segments`` has it behind the utterance."""
    end = "-1" if segment.end is None else f"{segment.end:.3f}"
    return f"{segment.recording} {segment.start:.3f} {end}"


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
            write_table(new / "segments", {key: _segment_line(s) for key, s in segments.items()})
        write_table(new / "text", {key: value.text for key, value in by_id.items()})
        write_table(new / "utt2spk", utt2spk)
        write_table(new / "spk2utt", speaker_table(utt2spk))
        if genders is not None:
            write_table(new / "spk2gender", {speaker: genders[speaker] for speaker in speakers})
    return len(by_id)


def combine_data_dirs(sources: Iterable[str | Path], directory: str | Path) -> int:
    """Join data directories into one; return its number of utterances.

    Where one has ``segments``, so has the result, with the whole file for utterances of the others.
    It has ``spk2gender`` if all of them have it.

    Args:
        sources: directories with wav.scp, text and utt2spk.
        directory: the data directory; a former one is replaced as a whole.

    Raises:
        HJPruneError: a file is missing, an utterance is in two of the directories or lacks its
            transcript or speaker, or two recordings have one name.
    """
    tables: dict[str, dict[str, str]] = {name: {} for name in ("wav.scp", "text", "utt2spk")}
    segments: dict[str, str] = {}
    genders: dict[str, str] | None = {}
    paths = [Path(source) for source in sources]
    segmented = any((source / "segments").exists() for source in paths)
    for source in paths:
        new = {name: read_table(source / name) for name in tables}
        utterances = new["wav.scp"]
        if (source / "segments").exists():
            utterances = read_table(source / "segments")
            segments |= utterances
        elif segmented:
            segments |= {utt_id: f"{utt_id} 0 -1" for utt_id in utterances}
        for utt_id in utterances:
            if utt_id in tables["text"]:
                raise HJPruneError(
                    f"utterance {utt_id} occurs twice, the second time in {source}; remove one"
                )
            for name in ("text", "utt2spk"):
                if utt_id not in new[name]:
                    raise HJPruneError(f"utterance {utt_id} is not in {source}/{name}; add it")
                tables[name][utt_id] = new[name][utt_id]
        for recording, audio in new["wav.scp"].items():
            if tables["wav.scp"].setdefault(recording, audio) != audio:
                raise HJPruneError(
                    f"{recording} of {source}/wav.scp is another recording elsewhere; rename one"
                )
        if genders is not None and (source / "spk2gender").exists():
            genders |= read_table(source / "spk2gender")
        else:
            genders = None
    with replaced_directory(directory) as output:
        for name, table in tables.items():
            write_table(output / name, table)
        if segmented:
            write_table(output / "segments", segments)
        write_table(output / "spk2utt", speaker_table(tables["utt2spk"]))
        if genders is not None:
            write_table(output / "spk2gender", genders)
    return len(tables["text"])
