"""Synthetic talks in the layout of TED-LIUM's test set, by another synthesiser than the training's.

Every talk is one recording of a voice of flite. Its sentences are those of the mini LibriSpeech's
grammar, but none of that corpus itself.
"""

from __future__ import annotations

import hashlib
import logging
import tempfile
from collections.abc import Collection
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random

import numpy as np
import soundfile

from espnet_hjprune.constants import SAMPLE_RATE
from espnet_hjprune.corpora.tedlium import NO_SPEECH, StmLine, write_stm
from espnet_hjprune.data import audio
from espnet_hjprune.errors import HJPruneError
from espnet_hjprune.synthetic.corpus import is_made, new_corpus
from espnet_hjprune.synthetic.grammar import COMMANDS, Grammar
from espnet_hjprune.synthetic.voices import FLITE_VOICES, FliteVoice, SyntheticRecording, record_all

RELEASE = "TEDLIUM_release2"


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


def make_mini_tedlium(
    parent: Path,
    config: MiniTedliumConfig,
    taken: Collection[str],
    nj: int = 2,
    grammar: Grammar = COMMANDS,
) -> bool:
    """Make ``parent/TEDLIUM_release2`` unless it is there already, made with the same settings.

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
    count = min(len(FLITE_VOICES), config.utterances)
    with new_corpus(corpus, made) as directory, tempfile.TemporaryDirectory() as scratch:
        for number, (name, gender, pitch) in enumerate(FLITE_VOICES[:count]):
            talk = f"{name.capitalize()}_2026"
            voice = FliteVoice(name, gender, 1.0, pitch)
            recordings = [
                SyntheticRecording(Path(scratch) / f"{talk}-{index}.wav", sentence.lower(), voice)
                for index, sentence in enumerate(sentences[number : config.utterances : count])
            ]
            record_all(recordings, SAMPLE_RATE, config.seed, nj)
            _join(directory / "test", talk, gender, recordings, random)
    logging.info("%s: %d utterances, %d talks", corpus, config.utterances, count)
    return True


def _join(
    directory: Path, talk: str, gender: str, recordings: list[SyntheticRecording], random: Random
) -> None:
    """Write a talk's recording, with pauses between the sentences, and its stm file."""
    label = f"<o,f0,{'male' if gender == 'm' else 'female'}>"
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
            lines.append(StmLine(talk, talk, now, end, label, words))
            parts.append(samples)
            now = end
    path = directory / "sph" / f"{talk}.sph"
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, np.concatenate(parts), SAMPLE_RATE, format="NIST", subtype="PCM_16")
    write_stm(directory / "stm" / f"{talk}.stm", lines)
