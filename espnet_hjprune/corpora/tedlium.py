"""TED-LIUM on disk: release 2 as a corpus, and the test set for models of LibriSpeech.

Layout: ``{train,dev,test}/stm/<talk>.stm`` with the times and words of every segment of a talk, and
``{train,dev,test}/sph/<talk>.sph`` with its audio; in release 3 below ``legacy/``.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from pathlib import Path

from espnet_hjprune.corpora.download import RemoteFile, fetch, unpacked
from espnet_hjprune.corpora.files import visible
from espnet_hjprune.corpora.stm import MARKER, NO_SPEECH, StmLine, read_stm
from espnet_hjprune.data.datadir import Segment, Utterance, write_data_dir
from espnet_hjprune.errors import HJPruneError

RELEASE = "TEDLIUM_release2"
# Size and checksum are those in TensorFlow Datasets (url_checksums/tedlium.txt). The checksum in
# torchaudio.datasets.TEDLIUM is the same.
ARCHIVE = RemoteFile(
    f"https://www.openslr.org/resources/19/{RELEASE}.tar.gz",
    36791529840,
    "sha256:93281b5fcaaae5c88671c9d000b443cb3c7ea3499ad12010b3934ca41a7b9c58",
)
# Segments with speech in release 2; dev and test are those of release 3 too. Sources: for train the
# README-dataset.md of returnn-experiments (rwth-i6, 2019-asr-e2e-trafo-vs-lstm/tedlium2), for dev
# and test the RESULTS of Kaldi's tedlium/s5_r2.
UTTERANCES = {"train": 92973, "dev": 507, "test": 1155}
# In the order of reading: a talk that is in two sets stays in the first.
SETS = ("test", "dev", "train")
# Seconds that training segments get before and after the words, at which they are cut in the stm
# files. Kaldi's and ESPnet's recipes do the same (kaldi-asr/kaldi, issue 835).
TRAIN_PADDING = (0.15, 0.1)
DATA_NAME = "test_tedlium"
AUDIO_SUFFIXES = (".sph", ".wav", ".flac")
UNKNOWN = "<unk>"
# "it 's", "don 't" and "o 'clock" are two tokens in TED-LIUM, one word in LibriSpeech.
SUFFIX = re.compile(
    r"(?<=\w) (?='(?:s|d|m|re|ve|ll|all)\b)|(?<=n) (?='t\b)|(?<=\bo) (?='clock\b)"
    r"|(?<=\bma) (?='am\b)",
    re.IGNORECASE,
)
# ESPnet's recipe of release 2 joins all that begins with an apostrophe, such as "rock 'n".
APOSTROPHE = re.compile(r"(\S+) ('\S*)")


def normalise(words: str) -> str:
    """The words as LibriSpeech writes them: upper case, without markers, suffixes joined."""
    plain = " ".join(MARKER.sub(" ", words).split())
    return SUFFIX.sub("", plain).upper()


def plain_words(words: str) -> str:
    """The words as ESPnet's recipe of release 2 writes them, but without any markers.

    Lower case, and what begins with an apostrophe is joined to the word before; with ``<unk>`` its
    suffix goes too.
    """
    kept = MARKER.sub(lambda mark: UNKNOWN if mark[0].lower() == UNKNOWN else " ", words)
    joined = APOSTROPHE.sub(r"\1\2", " ".join(kept.split()))
    return " ".join(word for word in joined.lower().split() if UNKNOWN not in word)


def find_test(corpus: Path) -> Path:
    """The directory with ``stm/`` and ``sph/`` of the test set.

    Args:
        corpus: a release of TED-LIUM, or the directory that holds one.

    Raises:
        HJPruneError: there is none.
    """
    releases = [corpus, *visible(corpus, "TEDLIUM_release*")]
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


def _read_lines(directory: Path) -> list[StmLine]:
    """All lines of a set's stm files."""
    return [line for path in visible(directory / "stm", "*.stm") for line in read_stm(path)]


def _utterance_id(name: str, line: StmLine) -> str:
    """``<name>-<start>-<end>``, times in hundredths of a second."""
    return f"{name}-{round(line.start * 100):07d}-{round(line.end * 100):07d}"


def read_test(directory: Path) -> tuple[list[Utterance], dict[str, str]]:
    """All segments with speech, and the genders of the speakers, where all are known.

    Raises:
        HJPruneError: a talk has no audio, there are no talks, or a line of an stm file is wrong.
    """
    spoken = _read_lines(directory)
    utterances = []
    for line in spoken:
        text = normalise(line.words)
        if not text or text.lower() == NO_SPEECH:
            continue
        utterances.append(
            Utterance(
                _utterance_id(line.speaker, line),
                line.speaker,
                _audio(directory, line.talk),
                text,
                Segment(line.talk, line.start, line.end),
            )
        )
    if not utterances:
        raise HJPruneError(f"{directory / 'stm'} has no segments with speech; renew the copy")
    return utterances, {line.speaker: line.gender for line in spoken if line.gender}


def _write(directory: Path, utterances: list[Utterance], genders: dict[str, str]) -> int:
    """Write a data directory, with genders where all are known; return its utterances."""
    speakers = {utterance.speaker for utterance in utterances}
    return write_data_dir(directory, utterances, genders if speakers <= genders.keys() else None)


def prepare(corpus: Path, output: Path, check_count: bool = True) -> None:
    """Make the data directory ``output/test_tedlium``, with ``segments``.

    Args:
        corpus: see :func:`find_test`.
        output: usually ``data``.
        check_count: warn about another number of utterances than releases 2 and 3 have.

    Raises:
        HJPruneError: see :func:`find_test` and :func:`read_test`.
    """
    directory = output / DATA_NAME
    count = _write(directory, *read_test(find_test(corpus)))
    logging.info("%s: %d utterances", directory, count)
    if check_count and count != UTTERANCES["test"]:
        logging.warning(
            "%s has %d utterances, releases 2 and 3 of TED-LIUM have %d",
            directory,
            count,
            UTTERANCES["test"],
        )


def read_set(directory: Path) -> list[StmLine]:
    """The segments with speech of one set of release 2; what is listed again is counted.

    Raises:
        HJPruneError: the set is missing or has no speech, or a line of an stm file is wrong.
    """
    if not (directory / "stm").is_dir():
        raise HJPruneError(
            f"{directory / 'stm'} does not exist; correct TEDLIUM2 in db.sh, or give "
            "--download true"
        )
    lines = [line for line in _read_lines(directory) if plain_words(line.words) != NO_SPEECH]
    if not lines:
        raise HJPruneError(f"{directory / 'stm'} has no segments with speech; renew the copy")
    different = list(dict.fromkeys(lines))
    if len(different) < len(lines):
        logging.warning(
            "%d of the %d lines in %s are there a second time and left out",
            len(lines) - len(different),
            len(lines),
            directory / "stm",
        )
    return different


def _without_talks(directory: Path, lines: list[StmLine], taken: set[str]) -> list[StmLine]:
    """The lines of talks that no earlier set has; the others are counted.

    Raises:
        HJPruneError: no talk is left.
    """
    talks = {line.talk for line in lines}
    both = sorted(talks & taken)
    if both:
        counted = (
            f"{len(both)} of the {len(talks)} talks in {directory} are in a set that models are "
            f"evaluated on, such as {both[0]}"
        )
        if len(both) == len(talks):
            raise HJPruneError(f"{counted}; renew the copy")
        logging.warning("%s; they are left out of %s", counted, directory.name)
    return [line for line in lines if line.talk not in taken]


def pad(
    spans: Sequence[tuple[float, float]], before: float, after: float
) -> list[tuple[float, float]]:
    """Spans of one talk, in order of time, made longer by at most ``before`` and ``after`` seconds.

    Neighbours share the pause between them, so that they do not begin to overlap.
    """
    padded = []
    for index, (start, end) in enumerate(spans):
        left = (start - spans[index - 1][1]) / 2 if index else start
        right = (spans[index + 1][0] - end) / 2 if index + 1 < len(spans) else after
        padded.append((start - min(before, max(left, 0.0)), end + min(after, max(right, 0.0))))
    return padded


def _utterances(
    directory: Path, lines: list[StmLine], padding: tuple[float, float] | None
) -> list[Utterance]:
    """Utterances called ``<talk>-<start>-<end>`` by the times in the stm file; a talk is a speaker.

    Segments that have markers only are left out and counted.
    """
    by_talk: dict[str, list[StmLine]] = {}
    for line in sorted(lines, key=lambda line: (line.start, line.end)):
        by_talk.setdefault(line.talk, []).append(line)
    utterances = []
    for talk, spoken in by_talk.items():
        audio = _audio(directory, talk)
        spans = [(line.start, line.end) for line in spoken]
        if padding:
            spans = pad(spans, *padding)
        for line, (start, end) in zip(spoken, spans, strict=True):
            text = plain_words(line.words)
            if text:
                segment = Segment(talk, start, end)
                utterances.append(Utterance(_utterance_id(talk, line), talk, audio, text, segment))
    if not utterances:
        raise HJPruneError(f"{directory / 'stm'} has no segments with words; renew the copy")
    if len(utterances) < len(lines):
        logging.warning(
            "%d of the %d segments in %s have no words and are left out",
            len(lines) - len(utterances),
            len(lines),
            directory,
        )
    return utterances


def prepare_release(corpus: Path, output: Path, check_counts: bool = True) -> None:
    """Make the data directories ``train``, ``dev`` and ``test`` of release 2, with ``segments``.

    A talk that is in two sets is left out of training, or of ``dev`` where it is in ``test``.

    Args:
        corpus: the directory ``TEDLIUM_release2``.
        output: where the directories are made.
        check_counts: warn about a set that has not as many segments as release 2 has.

    Raises:
        HJPruneError: a set, a talk's audio or all words are missing, a line of an stm file is
            wrong, or a segment occurs twice.
    """
    made: dict[str, tuple[list[Utterance], dict[str, str]]] = {}
    taken: set[str] = set()
    for name in SETS:
        lines = read_set(corpus / name)
        if check_counts and len(lines) != UTTERANCES[name]:
            logging.warning(
                "%s has %d segments with speech, release 2 of TED-LIUM has %d: the copy is not the "
                "whole set",
                corpus / name,
                len(lines),
                UTTERANCES[name],
            )
        lines = _without_talks(corpus / name, lines, taken)
        taken |= {line.talk for line in lines}
        padding = TRAIN_PADDING if name == "train" else None
        genders = {line.talk: line.gender for line in lines if line.gender}
        made[name] = _utterances(corpus / name, lines, padding), genders
    for name, (utterances, genders) in made.items():
        count = _write(output / name, utterances, genders)
        talks = len({utterance.speaker for utterance in utterances})
        logging.info("%s: %d utterances, %d talks", output / name, count, talks)


def download(directory: Path, archive: RemoteFile = ARCHIVE) -> None:
    """Complete ``directory/TEDLIUM_release2``; one that is there already stays as it is.

    The archive stays in ``directory``; one that is there already is used.

    Raises:
        HJPruneError: see :func:`~espnet_hjprune.corpora.download.fetch`.
    """
    corpus = directory / RELEASE
    if corpus.is_dir():
        logging.info("%s is there already", corpus)
        return
    path = directory / f"{RELEASE}.tar.gz"
    fetch(archive, path)
    with unpacked(path) as content:
        (content / RELEASE).rename(corpus)
