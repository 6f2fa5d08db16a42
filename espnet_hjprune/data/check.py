"""Checks of formatted data that another toolkit may have made, before a training reads them."""

from __future__ import annotations

import codecs
from collections.abc import Mapping
from pathlib import Path

from espnet_hjprune.constants import SAMPLE_RATE
from espnet_hjprune.data import audio
from espnet_hjprune.data.datadir import read_table
from espnet_hjprune.data.ids import check_scored_ids, check_speakers
from espnet_hjprune.data.transcripts import odd_characters
from espnet_hjprune.errors import HJPruneError

# What ESPnet calls audio: formatted, or as the user had it.
_RAW = ("raw", "raw_copy")
_REMEDY = "make the data by stage 2, which mends that, or mend it yourself"
# Audio files of a set that are opened.
_MAX_OPENED = 10


def check_dump(directory: Path, audio_format: str, trains: bool = True) -> None:
    """Check a directory of the form of ESPnet's ``dump/raw/<set>``.

    It needs wav.scp and text, for scoring utt2spk, and says ``raw`` in feats_type if it has one.
    The tables are read in full, of the audio a few files are opened.

    Args:
        directory: the directory.
        audio_format: one of :data:`~espnet_hjprune.constants.AUDIO_FORMATS`, which says whether
            wav.scp has files or positions in archives.
        trains: whether it is for training, which needs audio for every transcript, or for scoring,
            where an utterance without audio counts as one without words.

    Raises:
        HJPruneError: something is missing or has another form.
    """
    wav_scp = _check_wav_scp(directory, audio_format)
    text = read_table(directory / "text")
    _check_lines(directory / "text")
    _check_transcripts(directory, text)
    silent = text.keys() - wav_scp.keys() if trains else set[str]()
    for table, missing in (("text", wav_scp.keys() - text.keys()), ("wav.scp", silent)):
        if missing:
            raise HJPruneError(
                f"utterance {min(missing)} is not in {directory}/{table}; add it, or remove it "
                "from the other tables"
            )
    if not trains:
        _check_scored(directory, text)
    _check_audio(directory, wav_scp)


def check_audio_dump(directory: Path, audio_format: str) -> None:
    """The same for audio without transcripts, which a training without labels reads.

    Raises:
        HJPruneError: something is missing or has another form.
    """
    _check_audio(directory, _check_wav_scp(directory, audio_format))


def _check_wav_scp(directory: Path, audio_format: str) -> dict[str, str]:
    """The table of the audio, as far as it can be checked without opening any."""
    kind = _read_word(directory / "feats_type")
    if kind not in ("", *_RAW):
        raise HJPruneError(
            f"{directory}/feats_type is '{kind}', but the upstreams take audio; make the data with "
            "ESPnet's --feats_type raw"
        )
    if not (directory / "wav.scp").is_file():
        raise HJPruneError(f"{directory}/wav.scp is missing; run stage 2 first")
    kind = _read_word(directory / "audio_format")
    if kind.startswith("multi_"):
        raise HJPruneError(
            f"{directory}/audio_format is '{kind}', several files for an utterance; make the data "
            "with one channel"
        )
    wav_scp = read_table(directory / "wav.scp")
    _check_lines(directory / "wav.scp")
    if not wav_scp:
        raise HJPruneError(f"{directory}/wav.scp is empty; prepare the data again")
    _check_locations(directory, wav_scp, audio_format)
    return wav_scp


def _read_word(path: Path) -> str:
    """What a file with one word says; empty where there is none."""
    return path.read_text(encoding="utf-8").strip() if path.is_file() else ""


def _check_lines(path: Path) -> None:
    """Whether ESPnet, which reads a table by itself, finds in it what it says."""
    data = path.read_bytes()
    problems = {
        "a byte-order mark": data.startswith(codecs.BOM_UTF8),
        "carriage returns": b"\r" in data,
        "an empty line": not all(line.strip() for line in data.split(b"\n")[:-1]),
    }
    for problem, is_there in problems.items():
        if is_there:
            raise HJPruneError(f"{path} has {problem}, which ESPnet does not read; {_REMEDY}")


def _check_transcripts(directory: Path, text: Mapping[str, str]) -> None:
    """Whether ESPnet takes the characters of transcripts for what they are."""
    for utt_id, line in text.items():
        odd = odd_characters(line)
        if odd:
            raise HJPruneError(
                f"the transcript of {utt_id} in {directory}/text has U+{ord(min(odd)):04X}, which "
                f"ESPnet takes for no token; {_REMEDY}"
            )


def _check_scored(directory: Path, text: Mapping[str, str]) -> None:
    """Whether all utterances have speakers, and names that sclite can read."""
    utt2spk = read_table(directory / "utt2spk")
    for utt_id in text:
        if utt_id not in utt2spk:
            raise HJPruneError(f"utterance {utt_id} has no speaker in {directory}/utt2spk; add it")
    scored = {utt_id: utt2spk[utt_id] for utt_id in text}
    check_speakers(scored, directory / "utt2spk")
    check_scored_ids(scored, directory / "utt2spk")


def _check_locations(directory: Path, wav_scp: Mapping[str, str], audio_format: str) -> None:
    """Whether all audio is what ESPnet reads with this format: files, or positions in archives."""
    in_archive = audio_format.endswith(".ark")
    for utt_id, location in wav_scp.items():
        if audio.is_command(location):
            raise HJPruneError(
                f"{utt_id} of {directory}/wav.scp is a command, which only stage 2 runs; write its "
                "audio to a file"
            )
        if audio.is_ark_position(location) != in_archive:
            kind, better = ("a file", "flac") if in_archive else ("in an archive", "flac.ark")
            raise HJPruneError(
                f"the audio of {utt_id} is {kind} ({location}) by {directory}/wav.scp, which "
                f"--audio_format {audio_format} does not read; give --audio_format {better}"
            )


def _check_audio(directory: Path, wav_scp: Mapping[str, str]) -> None:
    """Whether some files, evenly spread over the table, are there and have the right form."""
    locations = list(wav_scp.values())
    for location in locations[:: -(-len(locations) // _MAX_OPENED)]:
        try:
            info = audio.probe(location)
        except audio.AudioError as error:
            raise HJPruneError(
                f"{error}; correct {directory}/wav.scp, whose paths start from {Path.cwd()}"
            ) from None
        if (info.rate, info.channels) != (SAMPLE_RATE, 1):
            raise HJPruneError(
                f"{location} of {directory}/wav.scp has {info.rate} Hz and {info.channels} "
                f"channels, but the upstreams take {SAMPLE_RATE} Hz and one channel; make the data "
                "again, for example by stage 2"
            )
