"""The SLURP corpus on disk: its layout, its labels, and data directories made from it.

Layout: ``dataset/slurp/{train,train_synthetic,devel,test}.jsonl`` with one prompt a line,
``dataset/slurp/metadata.json`` with the speaker of every real recording, and
``audio/{slurp_real,slurp_synth}/*.flac``.

The label of an utterance is ``<scenario>_<action>``. The field ``intent`` is not used: on some
prompts it lacks the scenario.
"""

from __future__ import annotations

import json
import logging
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from espnet_hjprune.atomic import write_text
from espnet_hjprune.corpora.download import RemoteFile, fetch, fetch_json, unpacked
from espnet_hjprune.data.datadir import Utterance, write_data_dir
from espnet_hjprune.data.lines import read_lines
from espnet_hjprune.data.transcripts import plain_text
from espnet_hjprune.errors import HJPruneError
from espnet_hjprune.listing import named

AUDIO_RECORD = "https://zenodo.org/api/records/4274930"
ANNOTATION_COMMIT = "8eb16545762be97ace75334109d73824217311f1"
ANNOTATIONS = (
    "https://api.github.com/repos/pswietojanski/slurp/contents/dataset/slurp"
    f"?ref={ANNOTATION_COMMIT}"
)
SYNTHETIC = "train_synthetic"
# Which annotation files a data directory is made of, and the number of different recordings.
SETS = {"train": ("train", SYNTHETIC), "devel": ("devel",), "test": ("test",)}
PUBLISHED = {"train": 50627, SYNTHETIC: 69253, "devel": 8690, "test": 13078}
SYNTHETIC_SPEAKER = "synthetic"
UNKNOWN_SPEAKER = "unknown"


@dataclass(frozen=True)
class SlurpRecording:
    """One recording of a prompt: its file's name, the prompt's label and words."""

    file: str
    label: str
    sentence: str


def annotation_path(corpus: Path, part: str) -> Path:
    """The annotations of ``train``, ``train_synthetic``, ``devel`` or ``test``."""
    return corpus / "dataset" / "slurp" / f"{part}.jsonl"


def audio_dir(corpus: Path, part: str) -> Path:
    """The directory with the recordings of a part."""
    return corpus / "audio" / ("slurp_synth" if part == SYNTHETIC else "slurp_real")


def metadata_path(corpus: Path) -> Path:
    """The speakers of the real recordings."""
    return corpus / "dataset" / "slurp" / "metadata.json"


def _read(path: Path) -> list[str]:
    """Read the lines of a text file of the corpus."""
    try:
        return read_lines(path)
    except FileNotFoundError:
        raise HJPruneError(
            f"{path} does not exist; SLURP in db.sh must be the directory that holds dataset/ and "
            "audio/, or give --download true"
        ) from None


def read_recordings(corpus: Path, part: str) -> Iterator[SlurpRecording]:
    """The recordings that the annotations of a part list.

    Raises:
        HJPruneError: the file is missing, or a line is not a prompt of SLURP.
    """
    path = annotation_path(corpus, part)
    for number, line in enumerate(_read(path), 1):
        try:
            prompt = json.loads(line)
            label = f"{prompt['scenario']}_{prompt['action']}"
            files = [recording["file"] for recording in prompt["recordings"]]
            sentence = plain_text(str(prompt["sentence"]))
        except (ValueError, KeyError, TypeError):
            raise HJPruneError(
                f"{path}:{number} is no JSON object with sentence, scenario, action and "
                "recordings; renew the copy"
            ) from None
        if len(label.split()) != 1:
            raise HJPruneError(
                f"{path}:{number} has the label '{label}', which is not one word; correct the "
                "scenario or action"
            )
        for file in files:
            yield SlurpRecording(file, label, sentence)


def read_speakers(corpus: Path) -> dict[str, str]:
    """The speaker (``usrid``, such as ``FO-488``) of every recording in ``metadata.json``.

    Raises:
        HJPruneError: the file is missing or has another form.
    """
    path = metadata_path(corpus)
    try:
        return {
            file: str(recording["usrid"])
            for prompt in json.loads("\n".join(_read(path))).values()
            for file, recording in prompt["recordings"].items()
        }
    except (ValueError, KeyError, TypeError, AttributeError):
        raise HJPruneError(
            f"{path} does not map prompts to recordings with their usrid; renew the copy"
        ) from None


def _present(
    corpus: Path, part: str, recordings: Sequence[SlurpRecording], max_missing: float
) -> list[SlurpRecording]:
    """The recordings whose files are there; the others are counted and named.

    Raises:
        HJPruneError: more than the share ``max_missing`` is not there.
    """
    directory = audio_dir(corpus, part)
    files = set(os.listdir(directory)) if directory.is_dir() else set()
    missing = [recording.file for recording in recordings if recording.file not in files]
    if missing:
        counted = (
            f"{len(missing)} of the {len(recordings)} recordings in "
            f"{annotation_path(corpus, part)} are not in {directory}: {named(missing)}"
        )
        if len(missing) > max_missing * len(recordings):
            raise HJPruneError(
                f"{counted}; complete the audio, or raise the share {max_missing:g} of these that "
                'may be missing by --local_data_opts "--max_missing SHARE"'
            )
        logging.warning("%s; they are left out", counted)
    return [recording for recording in recordings if recording.file in files]


def _not_taken(
    path: Path, recordings: list[SlurpRecording], taken: set[str]
) -> list[SlurpRecording]:
    """The recordings that no earlier line or set lists; SLURP lists one under two prompts."""
    fresh: dict[str, SlurpRecording] = {}
    twice = []
    for recording in recordings:
        if recording.file in taken or recording.file in fresh:
            twice.append(recording.file)
        else:
            fresh[recording.file] = recording
    if twice:
        logging.warning(
            "%d recordings in %s are listed a second time and left out there: %s",
            len(twice),
            path,
            named(twice),
        )
    taken.update(fresh)
    return list(fresh.values())


def _utterances(
    corpus: Path, part: str, recordings: Sequence[SlurpRecording], speakers: Mapping[str, str]
) -> list[Utterance]:
    """Utterances called ``<speaker>-<file>``, the speaker without its hyphen."""
    utterances = []
    directory = audio_dir(corpus, part)
    for recording in recordings:
        if part == SYNTHETIC:
            speaker = SYNTHETIC_SPEAKER
        else:
            # Scoring takes what is before the first hyphen for the speaker.
            speaker = speakers.get(recording.file, UNKNOWN_SPEAKER).replace("-", "")
        utt_id = f"{speaker}-{Path(recording.file).stem}"
        utterances.append(
            Utterance(utt_id, speaker, str(directory / recording.file), recording.label)
        )
    unknown = sum(utterance.speaker == UNKNOWN_SPEAKER for utterance in utterances)
    if unknown:
        logging.warning(
            "%d of the %d recordings in %s have no speaker in %s; they are called '%s'",
            unknown,
            len(utterances),
            annotation_path(corpus, part),
            metadata_path(corpus),
            UNKNOWN_SPEAKER,
        )
    return utterances


def _without_unseen_labels(
    sets: dict[str, list[Utterance]], drop_unseen: bool
) -> dict[str, list[Utterance]]:
    """Refuse, or leave out, utterances whose label training does not have.

    Such a label would become ``<unk>``, which no model can be right about and which scoring by
    tokens passes over.
    """
    known = {utterance.text for utterance in sets["train"]}
    kept = {}
    for name, utterances in sets.items():
        unseen = Counter(u.text for u in utterances if u.text not in known)
        if unseen:
            named = ", ".join(f"{label} ({count})" for label, count in sorted(unseen.items()))
            found = f"the set {name} has labels that no training utterance has: {named}"
            if not drop_unseen:
                raise HJPruneError(
                    f"{found}; complete the training data, or leave these utterances out by "
                    '--local_data_opts "--drop_unseen_labels true"'
                )
            logging.warning("%s; these utterances are left out", found)
        kept[name] = [utterance for utterance in utterances if utterance.text in known]
    return kept


def prepare(
    corpus: Path,
    output: Path,
    use_synthetic: bool = True,
    max_missing: float = 0.01,
    drop_unseen: bool = False,
    check_counts: bool = True,
) -> None:
    """Make the data directories ``train``, ``devel`` and ``test``, whose text is the label.

    Beside each, ``<name>/transcript`` has the words of the prompts.

    Args:
        corpus: the directory that holds ``dataset`` and ``audio``.
        output: where the directories are made.
        use_synthetic: add the synthetic recordings to ``train``.
        max_missing: share of listed recordings of a part that may be missing on disk.
        drop_unseen: leave out utterances of ``devel`` and ``test`` with a label that ``train``
            does not have, instead of refusing them.
        check_counts: warn about a part that has not as many utterances as SLURP has.

    Raises:
        HJPruneError: the corpus is incomplete, or has labels that cannot be learned.
    """
    speakers = read_speakers(corpus)
    sets: dict[str, list[Utterance]] = {}
    sentences: dict[str, str] = {}
    taken: set[str] = set()
    for name, parts in SETS.items():
        sets[name] = []
        for part in parts:
            if part == SYNTHETIC and not use_synthetic:
                continue
            path = annotation_path(corpus, part)
            recordings = _not_taken(path, list(read_recordings(corpus, part)), taken)
            if check_counts and len(recordings) != PUBLISHED[part]:
                logging.warning(
                    "%s lists %d recordings, SLURP has %d: the copy is not the whole corpus",
                    path,
                    len(recordings),
                    PUBLISHED[part],
                )
            recordings = _present(corpus, part, recordings, max_missing)
            utterances = _utterances(corpus, part, recordings, speakers)
            sets[name] += utterances
            sentences |= {
                utterance.utt_id: recording.sentence
                for utterance, recording in zip(utterances, recordings, strict=True)
            }
        if not sets[name]:
            raise HJPruneError(
                f"{annotation_path(corpus, parts[0])} lists no recordings; renew the copy"
            )
    for name, utterances in _without_unseen_labels(sets, drop_unseen).items():
        count = write_data_dir(output / name, utterances)
        transcripts = sorted((u.utt_id, sentences[u.utt_id]) for u in utterances)
        write_text(
            output / name / "transcript", "".join(f"{utt} {text}\n" for utt, text in transcripts)
        )
        labels = len({utterance.text for utterance in utterances})
        logging.info("%s: %d utterances, %d labels", output / name, count, labels)


def download(
    corpus: Path, audio_record: str = AUDIO_RECORD, annotations: str = ANNOTATIONS
) -> None:
    """Complete the corpus: annotations of a fixed commit, audio of a published record.

    Sizes and checksums are those that the two servers publish for them. Archives stay beside
    ``audio``; what is there already stays as it is.

    Args:
        corpus: the directory that gets ``dataset`` and ``audio``.
        audio_record: address of the record's description on Zenodo.
        annotations: address of the directory's listing on GitHub.

    Raises:
        HJPruneError: see :func:`~espnet_hjprune.corpora.download.fetch`.
    """
    files = [annotation_path(corpus, part) for part in PUBLISHED] + [metadata_path(corpus)]
    if not all(path.exists() for path in files):
        listing = _catalogue(annotations, _github_files)
        for path in files:
            if not path.exists():
                fetch(_listed(listing, path.name, annotations), path)
    directories = [audio_dir(corpus, part) for part in ("train", SYNTHETIC)]
    if not all(path.is_dir() for path in directories):
        listing = _catalogue(audio_record, _zenodo_files)
        for directory in directories:
            if directory.is_dir():
                logging.info("%s is there already", directory)
                continue
            archive = corpus / f"{directory.name}.tar.gz"
            fetch(_listed(listing, archive.name, audio_record), archive)
            with unpacked(archive) as content:
                directory.parent.mkdir(exist_ok=True)
                (content / directory.name).rename(directory)


def _github_files(listing: Any) -> dict[str, RemoteFile]:
    """Files by name from GitHub's listing of a directory."""
    return {
        entry["name"]: RemoteFile(entry["download_url"], int(entry["size"]), f"git:{entry['sha']}")
        for entry in listing
    }


def _zenodo_files(record: Any) -> dict[str, RemoteFile]:
    """Files by name from Zenodo's description of a record."""
    return {
        entry["key"]: RemoteFile(entry["links"]["self"], int(entry["size"]), entry["checksum"])
        for entry in record["files"]
    }


def _catalogue(address: str, read: Callable[[Any], dict[str, RemoteFile]]) -> dict[str, RemoteFile]:
    """Files by name from the listing at an address."""
    listing = fetch_json(address)
    try:
        return read(listing)
    except (KeyError, TypeError, ValueError):
        raise HJPruneError(
            f"{address} does not list files with sizes and checksums; get the corpus yourself and "
            "name its directory in db.sh"
        ) from None


def _listed(listing: Mapping[str, RemoteFile], name: str, address: str) -> RemoteFile:
    if name not in listing:
        raise HJPruneError(f"{address} does not list {name}; get the file yourself")
    return listing[name]
