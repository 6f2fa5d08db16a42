"""The test set of TED-LIUM on disk, on which models of LibriSpeech are out of their domain.

Layout: ``test/stm/<talk>.stm`` with the times and words of every segment of a talk, and
``test/sph/<talk>.sph`` with its audio; in release 3 below ``legacy/``.
"""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from espnet_hjprune.atomic import write_text
from espnet_hjprune.data.datadir import Segment, Utterance, write_data_dir
from espnet_hjprune.errors import HJPruneError

DATA_NAME = "test_tedlium"
# Of releases 2 and 3.
UTTERANCES = 1155
AUDIO_SUFFIXES = (".sph", ".wav", ".flac")
NO_SPEECH = "ignore_time_segment_in_scoring"
# <sil>, <unk>, {NOISE}, [COUGH], and numbers of pronunciations such as (2)
MARKER = re.compile(r"<[^<>]*>|\{[^{}]*\}|\[[^\[\]]*\]|\([^()]*\)")
# "it 's", "don 't" and "o 'clock" are two tokens in TED-LIUM, one word in LibriSpeech.
SUFFIX = re.compile(
    r"(?<=\w) (?='(?:s|d|m|re|ve|ll|all)\b)|(?<=n) (?='t\b)|(?<=\bo) (?='clock\b)"
    r"|(?<=\bma) (?='am\b)",
    re.IGNORECASE,
)
# <o,f0,male> in release 2 and 3, <F0_M> and <NA> elsewhere
LABEL = re.compile(r"<[^<>]*,[^<>]*>|<F\d_[MF]>|<NA>", re.IGNORECASE)
GENDERS = {"male": "m", "female": "f", "f0_m": "m", "f0_f": "f"}


@dataclass(frozen=True)
class StmLine:
    """A line of an stm file: who says what, from ``start`` to ``end`` seconds of a talk."""

    talk: str
    speaker: str
    start: float
    end: float
    label: str
    words: str

    @property
    def gender(self) -> str | None:
        """``m`` or ``f``; ``None`` where the label does not say."""
        return GENDERS.get(self.label.strip("<>").split(",")[-1].lower())


def normalise(words: str) -> str:
    """The words as LibriSpeech writes them: upper case, without markers, suffixes joined."""
    plain = " ".join(MARKER.sub(" ", words).split())
    return SUFFIX.sub("", plain).upper()


def read_stm(path: Path) -> Iterator[StmLine]:
    """Read ``talk channel speaker start end <label> words``; comments are left out.

    Raises:
        HJPruneError: a line has another form, or the file is no text in UTF-8.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise HJPruneError(f"{path} is no text in UTF-8 ({error.reason}); convert it") from error
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.startswith(";;"):
            continue
        # Filled up with empty words, so that a line that is too short fails by its times.
        talk, _, speaker, start, end, *rest = [*line.split(), *[""] * 5]
        try:
            times = float(start), float(end)
        except ValueError:
            times = (0.0, 0.0)
        if not 0 <= times[0] < times[1] < math.inf:
            raise HJPruneError(
                f"{path}:{number} is no line 'talk channel speaker start end <label> words'; "
                "correct it"
            )
        label = rest.pop(0) if LABEL.fullmatch(rest[0]) else ""
        yield StmLine(talk, speaker, *times, label, " ".join(rest).strip())


def find_test(corpus: Path) -> Path:
    """The directory with ``stm/`` and ``sph/`` of the test set.

    Args:
        corpus: a release of TED-LIUM, or the directory that holds one.

    Raises:
        HJPruneError: there is none.
    """
    releases = [corpus, *sorted(corpus.glob("TEDLIUM_release*"))]
    for release in releases:
        for directory in (release / "legacy/test", release / "test"):
            if (directory / "stm").is_dir():
                return directory
    raise HJPruneError(
        f"{corpus} has neither test/stm nor legacy/test/stm; correct TEDLIUM in db.sh, which is a "
        "release of TED-LIUM as it is unpacked from openslr.org/19 or openslr.org/51"
    )


def _audio(directory: Path, talk: str) -> str:
    """Find the audio file of a talk."""
    for suffix in AUDIO_SUFFIXES:
        path = directory / "sph" / f"{talk}{suffix}"
        if path.exists():
            return str(path)
    raise HJPruneError(f"{directory / 'sph' / talk}.sph does not exist; the copy is incomplete")


def read_test(directory: Path) -> tuple[list[Utterance], dict[str, str]]:
    """All segments with speech, and the genders of the speakers, where all are known.

    Raises:
        HJPruneError: a talk has no audio, there are no talks, or a line of an stm file is wrong.
    """
    spoken = [line for path in sorted((directory / "stm").glob("*.stm")) for line in read_stm(path)]
    utterances = []
    for line in spoken:
        text = normalise(line.words)
        if not text or text.lower() == NO_SPEECH:
            continue
        span = (round(line.start * 100), round(line.end * 100))
        utterances.append(
            Utterance(
                f"{line.speaker}-{span[0]:07d}-{span[1]:07d}",
                line.speaker,
                _audio(directory, line.talk),
                text,
                Segment(line.talk, line.start, line.end),
            )
        )
    if not utterances:
        raise HJPruneError(f"{directory / 'stm'} has no segments with speech; renew the copy")
    return utterances, {line.speaker: line.gender for line in spoken if line.gender}


def prepare(corpus: Path, output: Path, check_count: bool = True) -> None:
    """Make the data directory ``output/test_tedlium``, with ``segments``.

    Args:
        corpus: see :func:`find_test`.
        output: usually ``data``.
        check_count: warn about another number of utterances than releases 2 and 3 have.

    Raises:
        HJPruneError: see :func:`find_test` and :func:`read_test`.
    """
    utterances, genders = read_test(find_test(corpus))
    speakers = {utterance.speaker for utterance in utterances}
    directory = output / DATA_NAME
    known = genders if speakers <= genders.keys() else None
    count = write_data_dir(directory, utterances, known)
    logging.info("%s: %d utterances", directory, count)
    if check_count and count != UTTERANCES:
        logging.warning(
            "%s has %d utterances, releases 2 and 3 of TED-LIUM have %d",
            directory,
            count,
            UTTERANCES,
        )


def write_stm(path: Path, lines: Iterable[StmLine]) -> None:
    """Write the stm file of a talk."""
    text = "".join(
        f"{line.talk} 1 {line.speaker} {line.start:.2f} {line.end:.2f} {line.label} {line.words}\n"
        for line in lines
    )
    write_text(path, text)
