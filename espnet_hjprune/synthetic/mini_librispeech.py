"""A synthetic corpus of a few minutes in LibriSpeech's own layout.

Its sentences come from a closed grammar, its readers are voices of espeak-ng at a speed and
pitch of their own. No reader is in two subsets and no sentence occurs twice. The ``other`` subsets
are harder: odd speeds and pitches, and noise.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from random import Random

from espnet_hjprune.constants import SAMPLE_RATE
from espnet_hjprune.corpora.librispeech import (
    SUBSETS,
    Reader,
    audio_path,
    write_readers,
    write_transcripts,
)
from espnet_hjprune.errors import HJPruneError
from espnet_hjprune.synthetic.corpus import is_made, new_corpus
from espnet_hjprune.synthetic.grammar import COMMANDS, Grammar
from espnet_hjprune.synthetic.voices import (
    EspeakVoice,
    SyntheticRecording,
    espeak_names,
    record_all,
)

READERS = {
    "train-clean-100": 60,
    "dev-clean": 6,
    "dev-other": 6,
    "test-clean": 10,
    "test-other": 10,
}
# All have four digits, so that their order as text is that as numbers.
FIRST_READER = 1001


@dataclass(frozen=True)
class MiniLibriSpeechConfig:
    """What determines the corpus: the number of utterances of each subset, and the seed."""

    utterances: Mapping[str, int]
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the numbers."""
        for subset in SUBSETS:
            if self.utterances.get(subset, 0) < 1:
                raise HJPruneError(f"the mini corpus needs at least one utterance in {subset}")


def _voice(name: str, gender: str, subset: str, random: Random) -> EspeakVoice:
    """A reader's voice: usual speeds and pitches for clean subsets, odd ones for the others.

    Usual ones lie around 160 words a minute and espeak-ng's own pitch, 50.
    """
    if subset.endswith("-other"):
        rate = random.choice((random.randint(128, 140), random.randint(180, 195)))
        pitch = random.choice((random.randint(18, 30), random.randint(70, 82)))
    else:
        rate, pitch = random.randint(140, 180), random.randint(32, 68)
    return EspeakVoice(name, gender, rate, pitch)


def _snr_db(subset: str, random: Random) -> float | None:
    """Signal-to-noise ratio of one recording in dB; ``None`` is clean.

    The noise is audible and stays well below the speech.
    """
    return random.uniform(20.0, 30.0) if subset.endswith("-other") else None


def _plan(
    config: MiniLibriSpeechConfig, grammar: Grammar
) -> dict[str, list[tuple[str, str, EspeakVoice]]]:
    """Say who reads what: (utterance, sentence, voice) of every subset."""
    random = Random(config.seed)
    drawn = grammar.sample(sum(config.utterances[subset] for subset in SUBSETS), random)
    names = cycle(espeak_names(random))
    reader_id = FIRST_READER
    plan: dict[str, list[tuple[str, str, EspeakVoice]]] = {}
    for subset in SUBSETS:
        count = config.utterances[subset]
        voices = [
            (reader_id + index, _voice(*next(names), subset, random))
            for index in range(min(READERS[subset], count))
        ]
        reader_id += READERS[subset]
        plan[subset] = []
        for index in range(count):
            reader, voice = voices[index % len(voices)]
            utt_id = f"{reader}-{100 * reader + 1}-{index // len(voices):04d}"
            plan[subset].append((utt_id, drawn.pop(), voice))
    return plan


def sentences(config: MiniLibriSpeechConfig, grammar: Grammar = COMMANDS) -> set[str]:
    """All sentences of the corpus.

    Raises:
        HJPruneError: the grammar has too few.
    """
    plan = _plan(config, grammar)
    return {text for utterances in plan.values() for _, text, _ in utterances}


def make_mini_librispeech(
    parent: Path, config: MiniLibriSpeechConfig, nj: int = 2, grammar: Grammar = COMMANDS
) -> bool:
    """Make ``parent/LibriSpeech`` unless it is there already, made with the same settings.

    The same settings give the same corpus, whatever ``nj``, the number of processes.

    Returns:
        Whether the corpus was made.

    Raises:
        HJPruneError: the grammar has too few sentences, espeak-ng is missing or fails, or the
            directory holds another corpus.
    """
    corpus = parent / "LibriSpeech"
    if is_made(corpus, config):
        return False
    plan = _plan(config, grammar)
    noise = Random(config.seed)
    with new_corpus(corpus, config) as directory:
        recordings = [
            SyntheticRecording(
                audio_path(directory, subset, utt_id), text.lower(), voice, _snr_db(subset, noise)
            )
            for subset, utterances in plan.items()
            for utt_id, text, voice in utterances
        ]
        seconds = iter(record_all(recordings, SAMPLE_RATE, config.seed, nj))
        readers: list[Reader] = []
        for subset, utterances in plan.items():
            write_transcripts(directory, subset, {utt_id: text for utt_id, text, _ in utterances})
            minutes: dict[str, float] = {}
            voices: dict[str, EspeakVoice] = {}
            for utt_id, _, voice in utterances:
                reader = utt_id.split("-")[0]
                minutes[reader] = minutes.get(reader, 0.0) + next(seconds) / 60
                voices[reader] = voice
            readers += [
                Reader(reader, voices[reader].gender, subset, minutes[reader], voices[reader].name)
                for reader in voices
            ]
        write_readers(directory / "SPEAKERS.TXT", readers)
    total = sum(reader.minutes for reader in readers)
    logging.info("%s: %d utterances, %.1f minutes", corpus, len(recordings), total)
    return True
