"""Synthetic talks in the layout of TED-LIUM's release 2.

Either a test set for models of the mini LibriSpeech, by another synthesiser than the training's, or
a whole release with sets for training, validation and test. Every talk is one recording of one
voice. The sentences are those of the mini LibriSpeech's grammar.
"""

from __future__ import annotations

import hashlib
import logging
import re
import tempfile
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random

import numpy as np
import soundfile

from espnet_hjprune.constants import SAMPLE_RATE
from espnet_hjprune.corpora.stm import NO_SPEECH, StmLine, write_stm
from espnet_hjprune.corpora.tedlium import RELEASE
from espnet_hjprune.data import audio
from espnet_hjprune.errors import HJPruneError
from espnet_hjprune.synthetic.corpus import is_made, new_corpus
from espnet_hjprune.synthetic.grammar import COMMANDS, Grammar
from espnet_hjprune.synthetic.voices import (
    FLITE_VOICES,
    EspeakVoice,
    FliteVoice,
    SyntheticRecording,
    Voice,
    espeak_names,
    record_all,
)

# Talks of each set of a whole release. Every talk of espeak-ng has a voice of its own. Flite has
# only four voices: one is kept for validation and test, at another speed in each of their talks.
ESPEAK_TALKS = {"train": 16, "dev": 3, "test": 4}
# Voice and factor on its durations
FLITE_TALKS = {
    "train": (("awb", 1.0), ("slt", 1.0), ("kal", 1.0), ("slt", 1.15)),
    "dev": (("rms", 1.0),),
    "test": (("rms", 0.9), ("rms", 1.1)),
}


@dataclass(frozen=True)
class MiniTedliumConfig:
    """What determines the talks: the number of their segments in all, and the seed."""

    utterances: int
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the number."""
        if self.utterances < 1:
            raise HJPruneError("the mini corpus needs at least one utterance in test_tedlium")


@dataclass(frozen=True)
class _Made(MiniTedliumConfig):
    """What determines the talks, with a digest of the sentences that must not occur."""

    taken: str = ""


@dataclass(frozen=True)
class MiniReleaseConfig:
    """What determines a release: the number of segments of each set, and the seed."""

    utterances: Mapping[str, int]
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the numbers."""
        for name in ESPEAK_TALKS:
            if self.utterances.get(name, 0) < 1:
                raise HJPruneError(f"the mini corpus needs at least one utterance in {name}")


@dataclass(frozen=True)
class _Talk:
    """A talk to make: its set, its name, its voice and the sentences, in order."""

    subset: str
    name: str
    voice: Voice
    sentences: list[str]


def make_mini_tedlium(
    parent: Path,
    config: MiniTedliumConfig,
    taken: Collection[str],
    nj: int = 2,
    grammar: Grammar = COMMANDS,
) -> bool:
    """Make ``parent/TEDLIUM_release2`` with a test set, unless it is there with these settings.

    Args:
        parent: where the release is made.
        config: the settings.
        taken: sentences that must not occur.
        nj: number of processes.
        grammar: of the sentences.

    Returns:
        Whether the corpus was made.

    Raises:
        HJPruneError: the grammar has too few sentences, flite is missing or fails, or the
            directory holds another corpus.
    """
    corpus = parent / RELEASE
    digest = hashlib.sha256("\n".join(sorted(taken)).encode()).hexdigest()
    made = _Made(**asdict(config), taken=digest)
    if is_made(corpus, made):
        return False
    random = Random(f"{config.seed} talks")
    drawn = grammar.sample(min(grammar.size, config.utterances + len(taken)), random)
    sentences = [sentence for sentence in drawn if sentence not in set(taken)]
    if len(sentences) < config.utterances:
        raise HJPruneError(
            f"the grammar has only {len(sentences)} sentences left for {config.utterances} "
            "utterances in test_tedlium; ask for fewer"
        )
    voices = {
        f"{name.capitalize()}_2026": FliteVoice(name, gender, 1.0, pitch)
        for name, gender, pitch in FLITE_VOICES
    }
    talks = list(_share("test", voices, sentences[: config.utterances]))
    with new_corpus(corpus, made) as directory:
        _make(directory, talks, config.seed, nj, random)
    logging.info("%s: %d utterances, %d talks", corpus, config.utterances, len(talks))
    return True


def make_mini_release(
    parent: Path, config: MiniReleaseConfig, nj: int = 2, grammar: Grammar = COMMANDS
) -> bool:
    """Make ``parent/TEDLIUM_release2`` with all its sets, unless it is there with these settings.

    No sentence occurs twice, and no voice of espeak-ng speaks in two talks. The same settings give
    the same corpus, whatever ``nj``, the number of processes.

    Returns:
        Whether the corpus was made.

    Raises:
        HJPruneError: the grammar has too few sentences, a synthesiser is missing or fails, or the
            directory holds another corpus.
    """
    corpus = parent / RELEASE
    if is_made(corpus, config):
        return False
    random = Random(f"{config.seed} release")
    total = sum(config.utterances[name] for name in ESPEAK_TALKS)
    drawn = iter(grammar.sample(total, random))
    talks: list[_Talk] = []
    for name, voices in _release_voices(random).items():
        talks += _share(name, voices, [next(drawn) for _ in range(config.utterances[name])])
    with new_corpus(corpus, config) as directory:
        _make(directory, talks, config.seed, nj, random)
    logging.info("%s: %d utterances, %d talks", corpus, total, len(talks))
    return True


def _release_voices(random: Random) -> dict[str, dict[str, Voice]]:
    """The voices of every set by the names of their talks, flite's among espeak-ng's.

    Those of espeak-ng have usual speeds and pitches, around 160 words a minute and 50.
    """
    espeak = iter(espeak_names(random))
    flite = {name: (gender, pitch) for name, gender, pitch in FLITE_VOICES}
    year: Counter[str] = Counter()
    sets: dict[str, dict[str, Voice]] = {}
    for subset, count in ESPEAK_TALKS.items():
        voices: list[EspeakVoice | FliteVoice] = [
            EspeakVoice(*next(espeak), random.randint(140, 180), random.randint(32, 68))
            for _ in range(count)
        ]
        # The second, the fourth ..., so that small sets have both.
        for index, (name, stretch) in enumerate(FLITE_TALKS[subset]):
            gender, pitch = flite[name]
            voices.insert(2 * index + 1, FliteVoice(name, gender, stretch, pitch))
        sets[subset] = {}
        for voice in voices:
            name = re.sub(r"\W", "", voice.name).capitalize()
            sets[subset][f"{name}_{2026 + year[name]}"] = voice
            year[name] += 1
    return sets


def _share(subset: str, voices: Mapping[str, Voice], sentences: list[str]) -> Iterator[_Talk]:
    """Talks of one set: every voice speaks as many of the sentences as the others, but for one."""
    count = min(len(voices), len(sentences))
    for number, (name, voice) in enumerate(voices.items()):
        if number < count:
            yield _Talk(subset, name, voice, sentences[number::count])


def _make(directory: Path, talks: list[_Talk], seed: int, nj: int, random: Random) -> None:
    """Make the talks of a release; ``random`` gives the pauses."""
    with tempfile.TemporaryDirectory() as scratch:
        recordings = [
            [
                SyntheticRecording(
                    Path(scratch) / f"{talk.name}-{index}.wav", sentence.lower(), talk.voice
                )
                for index, sentence in enumerate(talk.sentences)
            ]
            for talk in talks
        ]
        record_all([one for some in recordings for one in some], SAMPLE_RATE, seed, nj)
        for talk, spoken in zip(talks, recordings, strict=True):
            _join(directory / talk.subset, talk, spoken, random)


def _join(
    directory: Path, talk: _Talk, recordings: list[SyntheticRecording], random: Random
) -> None:
    """Write a talk's recording, with pauses between the sentences, and its stm file."""
    label = f"<o,f0,{'male' if talk.voice.gender == 'm' else 'female'}>"
    parts: list[np.ndarray] = []
    lines: list[StmLine] = []
    now = 0.0
    for recording in recordings:
        # Times in an stm file are in hundredths of a second; speakers pause for 0.3 to 0.9 s.
        pause = np.zeros(random.randint(30, 90) * SAMPLE_RATE // 100, dtype=np.float32)
        speech = audio.read_mono(recording.path, SAMPLE_RATE)
        speech = np.pad(speech, (0, -len(speech) % (SAMPLE_RATE // 100)))
        for samples, words in ((pause, NO_SPEECH), (speech, recording.text)):
            end = now + len(samples) / SAMPLE_RATE
            lines.append(StmLine(talk.name, talk.name, now, end, label, words))
            parts.append(samples)
            now = end
    path = directory / "sph" / f"{talk.name}.sph"
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, np.concatenate(parts), SAMPLE_RATE, format="NIST", subtype="PCM_16")
    write_stm(directory / "stm" / f"{talk.name}.stm", lines)
