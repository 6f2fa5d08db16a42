"""The LibriSpeech corpus on disk: its subsets, its layout, and data directories made from it.

Layout: ``LibriSpeech/SPEAKERS.TXT`` and ``LibriSpeech/<subset>/<reader>/<chapter>/`` with
``<reader>-<chapter>-<number>.flac`` files and one ``<reader>-<chapter>.trans.txt``.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from espnet_hjprune.atomic import write_text
from espnet_hjprune.corpora.download import RemoteFile, fetch, unpacked
from espnet_hjprune.corpora.files import visible
from espnet_hjprune.data.datadir import Utterance, combine_data_dirs, read_table, write_data_dir
from espnet_hjprune.data.lines import read_lines
from espnet_hjprune.errors import HJPruneError

BASE_URL = "https://www.openslr.org/resources/12"


@dataclass(frozen=True)
class Archive:
    """One archive of the corpus: size in bytes, MD5 sum, and what it holds."""

    bytes: int
    md5: str
    utterances: int


SUBSETS = {
    "train-clean-100": Archive(6387309499, "2a93770f6d5c6c964bc36631d331a522", 28539),
    "dev-clean": Archive(337926286, "42e2234ba48799c1f50f24a7926300a1", 2703),
    "dev-other": Archive(314305928, "c8d0bcc9cca99d4f8b62fcc847357931", 2864),
    "test-clean": Archive(346663984, "32fa31d27d2e1cad72775fee3f4849a9", 2620),
    "test-other": Archive(328757843, "fb5a50374b501bb3bac4815ee91d3135", 2939),
}


def download(
    directory: Path,
    subsets: Sequence[str] = tuple(SUBSETS),
    base_url: str = BASE_URL,
    catalogue: Mapping[str, Archive] = SUBSETS,
) -> None:
    """Complete ``directory/LibriSpeech``: subsets that are there already stay as they are.

    Archives stay in ``directory``; one that is there already is used.

    Raises:
        HJPruneError: see :func:`~espnet_hjprune.corpora.download.fetch`.
    """
    corpus = directory / "LibriSpeech"
    for subset in subsets:
        if (corpus / subset).is_dir():
            logging.info("%s is there already", corpus / subset)
            continue
        archive = directory / f"{subset}.tar.gz"
        published = catalogue[subset]
        url = f"{base_url}/{archive.name}"
        fetch(RemoteFile(url, published.bytes, f"md5:{published.md5}"), archive)
        with unpacked(archive) as content:
            corpus.mkdir(exist_ok=True)
            for path in visible(content / "LibriSpeech", "*.TXT"):
                path.replace(corpus / path.name)
            # Last, because a subset that is there counts as complete.
            (content / "LibriSpeech" / subset).rename(corpus / subset)


def data_name(subset: str) -> str:
    """The name of a subset's data directory, such as ``test_clean``."""
    return subset.replace("-", "_")


def read_genders(path: Path) -> dict[str, str]:
    """Read SPEAKERS.TXT (``id | sex | subset | minutes | name``): reader -> ``m`` or ``f``.

    Raises:
        HJPruneError: the file is missing or a line has another form.
    """
    genders: dict[str, str] = {}
    try:
        lines = read_lines(path)
    except FileNotFoundError:
        raise HJPruneError(
            f"{path} does not exist; LIBRISPEECH in db.sh must be the directory that holds "
            "LibriSpeech/SPEAKERS.TXT"
        ) from None
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.startswith(";"):
            continue
        # Names may contain the separator, so only the first two columns are looked at.
        reader, *columns = (column.strip() for column in line.split("|"))
        gender = columns[0].lower() if columns else ""
        if not reader.isdigit() or gender not in ("m", "f"):
            raise HJPruneError(f"{path}:{number} is no line 'id | M or F | ...'; correct it")
        genders[reader] = gender
    return genders


def _read_chapter(directory: Path) -> Iterator[Utterance]:
    """The utterances of one chapter, each with its audio and its transcript."""
    reader, chapter = directory.parent.name, directory.name
    transcripts_path = directory / f"{reader}-{chapter}.trans.txt"
    audio = {path.stem: path for path in visible(directory, "*.flac")}
    if not transcripts_path.exists():
        raise HJPruneError(f"{transcripts_path} does not exist; the copy is incomplete, renew it")
    transcripts = read_table(transcripts_path)
    for utt_id in sorted(audio.keys() | transcripts.keys()):
        if not transcripts.get(utt_id):
            raise HJPruneError(
                f"utterance {utt_id} has audio but no transcript in {transcripts_path}; "
                "add the transcript or remove the audio"
            )
        if utt_id not in audio:
            raise HJPruneError(
                f"utterance {utt_id} of {transcripts_path} has no audio {utt_id}.flac beside it; "
                "add the audio or remove the transcript"
            )
        yield Utterance(utt_id, reader, str(audio[utt_id]), transcripts[utt_id])


def read_subset(corpus: Path, subset: str) -> list[Utterance]:
    """All utterances of ``corpus/subset``; the speaker is the reader.

    Raises:
        HJPruneError: the subset is missing or empty, or audio and transcripts do not match.
    """
    directory = corpus / subset
    if not directory.is_dir():
        raise HJPruneError(
            f"{directory} does not exist; correct LIBRISPEECH in db.sh, or give --download true"
        )
    utterances = [
        utterance for chapter in visible(directory, "*/*/") for utterance in _read_chapter(chapter)
    ]
    if not utterances:
        raise HJPruneError(f"{directory} has no <reader>/<chapter>/ directories; renew the copy")
    return utterances


def prepare(corpus: Path, output: Path, subsets: Sequence[str], check_counts: bool = True) -> None:
    """Make a data directory of every subset, and ``dev``, the validation set, of both dev subsets.

    Args:
        corpus: the directory ``LibriSpeech``.
        output: where ``train_clean_100``, ``dev_clean``, ..., ``dev`` are made.
        subsets: names from :data:`SUBSETS`.
        check_counts: warn about a subset that has not as many utterances as LibriSpeech has.

    Raises:
        HJPruneError: see :func:`read_genders` and :func:`read_subset`.
    """
    genders = read_genders(corpus / "SPEAKERS.TXT")
    for subset in subsets:
        utterances = read_subset(corpus, subset)
        unknown = [utt for utt in utterances if utt.speaker not in genders]
        if unknown:
            raise HJPruneError(
                f"reader {unknown[0].speaker} of {corpus / subset} is not in "
                f"{corpus / 'SPEAKERS.TXT'}; add the reader there"
            )
        count = write_data_dir(output / data_name(subset), utterances, genders)
        logging.info("%s: %d utterances", output / data_name(subset), count)
        if check_counts and count != SUBSETS[subset].utterances:
            logging.warning(
                "%s has %d utterances, LibriSpeech has %d: the copy is not the whole set",
                corpus / subset,
                count,
                SUBSETS[subset].utterances,
            )
    dev = [output / data_name(subset) for subset in subsets if subset.startswith("dev-")]
    if dev:
        logging.info("%s: %d utterances", output / "dev", combine_data_dirs(dev, output / "dev"))


def write_transcripts(corpus: Path, subset: str, texts: Mapping[str, str]) -> None:
    """Write the ``*.trans.txt`` files of a subset from transcripts by utterance.

    The utterances are called ``<reader>-<chapter>-<number>``.
    """
    chapters: dict[tuple[str, str], list[str]] = {}
    for utt_id in sorted(texts):
        reader, chapter, _ = utt_id.split("-")
        chapters.setdefault((reader, chapter), []).append(f"{utt_id} {texts[utt_id]}\n")
    for (reader, chapter), lines in chapters.items():
        path = corpus / subset / reader / chapter / f"{reader}-{chapter}.trans.txt"
        write_text(path, "".join(lines))


def audio_path(corpus: Path, subset: str, utt_id: str) -> Path:
    """Where the audio of an utterance ``<reader>-<chapter>-<number>`` is."""
    reader, chapter, _ = utt_id.split("-")
    return corpus / subset / reader / chapter / f"{utt_id}.flac"


@dataclass(frozen=True)
class Reader:
    """A line of SPEAKERS.TXT; ``gender`` is ``m`` or ``f``."""

    reader_id: str
    gender: str
    subset: str
    minutes: float
    name: str


def write_readers(path: Path, readers: Iterable[Reader]) -> None:
    """Write SPEAKERS.TXT."""
    lines = [f";{'ID':<4}|SEX| {'SUBSET':<16} |MINUTES| NAME"]
    lines += [
        f"{reader.reader_id:<4} | {reader.gender.upper()} | {reader.subset:<16} "
        f"| {reader.minutes:5.2f} | {reader.name}"
        for reader in readers
    ]
    write_text(path, "\n".join(lines) + "\n")
