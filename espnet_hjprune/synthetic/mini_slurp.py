"""A synthetic corpus of some minutes in SLURP's own layout.

Prompts come from templates of ten intents. As in SLURP, several speakers record a prompt, close to
the microphone or from a distance. The speakers are voices of espeak-ng at a speed and pitch of
their own, distance is noise, and the synthetic recordings are voices of flite. The sets share the
speakers, but no prompt of ``devel`` or ``test`` occurs in training.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path
from random import Random
from typing import Any

from espnet_hjprune.atomic import write_text
from espnet_hjprune.constants import SAMPLE_RATE
from espnet_hjprune.corpora.slurp import SYNTHETIC, annotation_path, audio_dir, metadata_path
from espnet_hjprune.errors import HJPruneError
from espnet_hjprune.synthetic.corpus import is_made, new_corpus
from espnet_hjprune.synthetic.templates import Phrase, phrases
from espnet_hjprune.synthetic.voices import (
    FLITE_VOICES,
    EspeakVoice,
    FliteVoice,
    SyntheticRecording,
    Voice,
    espeak_names,
    record_all,
)

SPEAKERS = 12
# Speakers of a prompt.
TAKES = 2
FIRST_SPEAKER, FIRST_PROMPT, FIRST_RECORDING = 101, 1001, 1400000000

LEXICON: dict[str, tuple[str, ...]] = {
    "time": ("six", "seven", "eight", "nine", "ten", "noon"),
    "date": ("today", "tomorrow", "monday", "tuesday", "friday", "sunday"),
    "house_place": ("kitchen", "bedroom", "bathroom", "hallway", "garage", "office"),
    "media": ("music", "radio", "speaker", "television", "movie", "sound"),
    "music_genre": ("jazz", "rock", "country", "folk", "blues", "techno"),
    "artist": ("queen", "madonna", "prince", "elvis", "mozart", "adele"),
    "place": ("london", "paris", "boston", "chicago", "berlin", "madrid"),
    "event": ("lunch", "dinner", "school", "training", "church", "the party"),
    "item": ("milk", "bread", "apples", "coffee", "butter", "sugar"),
}
# Of every intent its templates, by scenario and action.
INTENTS: dict[tuple[str, str], tuple[str, ...]] = {
    ("alarm", "set"): ("wake me at [time] [date]", "set an alarm for [time]"),
    ("alarm", "remove"): ("cancel my [time] alarm [date]", "delete the [time] alarm"),
    ("iot", "hue_lighton"): ("[house_place] lights on [date]", "switch on the [house_place] lamp"),
    ("iot", "hue_lightoff"): (
        "[house_place] lights off [date]",
        "switch off the [house_place] lamp",
    ),
    ("audio", "volume_up"): ("make the [media] louder", "[house_place] [media] up"),
    ("audio", "volume_down"): ("make the [media] quieter", "[house_place] [media] down"),
    ("play", "music"): ("play [music_genre] by [artist]", "play [artist] [date]"),
    ("weather", "query"): ("weather in [place] [date]", "will it rain in [place]"),
    ("calendar", "set"): ("remind me of [event] [date]", "[event] at [time] [date]"),
    ("lists", "createoradd"): ("add [item] to my list", "buy [item] and [item] [date]"),
}
# As in SLURP, the field "intent" is not always scenario_action.
ODD_INTENTS = {"play_music": "music", "weather_query": "query"}


@dataclass(frozen=True)
class MiniSlurpConfig:
    """What determines the corpus: prompts of each set, and the seed.

    A real prompt has three recordings: two speakers close to the microphone, and the first of them
    from a distance too. A synthetic one has one.
    """

    prompts: Mapping[str, int]
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the numbers."""
        if self.prompts.get(SYNTHETIC, 0) < 0:
            raise HJPruneError("--num_train_synthetic cannot be negative")
        for name in ("train", "devel", "test"):
            if self.prompts.get(name, 0) < (len(INTENTS) if name == "train" else 1):
                raise HJPruneError(
                    f"the mini corpus needs at least {len(INTENTS)} prompts in train, so that "
                    "every label can be learned, and one in devel and test"
                )


@dataclass(frozen=True)
class Prompt:
    """A line of the annotations: its label's parts, its words, and the names of its files."""

    slurp_id: int
    scenario: str
    action: str
    phrase: Phrase
    files: tuple[str, ...]

    def entry(self) -> dict[str, Any]:
        """The prompt as SLURP annotates it; what only SLURP's authors can say is left out."""
        label = f"{self.scenario}_{self.action}"
        return {
            "slurp_id": self.slurp_id,
            "sentence": self.phrase.text,
            "sentence_annotation": self.phrase.annotation,
            "intent": ODD_INTENTS.get(label, label) if self.slurp_id % 2 else label,
            "action": self.action,
            "tokens": [
                {"surface": word, "id": number}
                for number, word in enumerate(self.phrase.text.split())
            ],
            "scenario": self.scenario,
            "recordings": [{"file": file, "status": "correct"} for file in self.files],
            "entities": [{"span": list(span), "type": slot} for slot, span in self.phrase.entities],
        }


def _share(total: int, index: int) -> int:
    """How many of ``total`` prompts intent number ``index`` gets."""
    return total // len(INTENTS) + (index < total % len(INTENTS))


def _draw(config: MiniSlurpConfig, random: Random) -> dict[str, list[tuple[str, str, Phrase]]]:
    """Draw (scenario, action, phrase) of every set, with ``train_synthetic``, in random order."""
    drawn: dict[str, list[tuple[str, str, Phrase]]] = {
        name: [] for name in ("train", SYNTHETIC, "devel", "test")
    }
    for index, ((scenario, action), templates) in enumerate(INTENTS.items()):
        by_text = {p.text: p for template in templates for p in phrases(template, LEXICON)}
        pool = [by_text[text] for text in sorted(by_text)]
        random.shuffle(pool)
        held_out = {name: _share(config.prompts[name], index) for name in ("devel", "test")}
        needed = sum(held_out.values()) + _share(config.prompts["train"], index)
        if needed > len(pool):
            raise HJPruneError(
                f"the templates of {scenario}_{action} have {len(pool)} sentences only, and "
                f"{needed} are asked for; ask for fewer prompts"
            )
        for name, count in held_out.items():
            drawn[name] += [(scenario, action, pool.pop()) for _ in range(count)]
        training = cycle(pool)
        for name in ("train", SYNTHETIC):
            count = _share(config.prompts.get(name, 0), index)
            drawn[name] += [(scenario, action, phrase) for phrase in islice(training, count)]
    for prompts in drawn.values():
        random.shuffle(prompts)
    return drawn


def _speakers(random: Random) -> list[tuple[str, Voice]]:
    """(usrid, voice); the usrid tells the gender and that English is a foreign language."""
    speakers: list[tuple[str, Voice]] = []
    for number, (voice, gender) in enumerate(espeak_names(random)[:SPEAKERS], FIRST_SPEAKER):
        rate, pitch = random.randint(170, 210), random.randint(30, 70)
        speakers.append((f"{gender.upper()}O-{number}", EspeakVoice(voice, gender, rate, pitch)))
    return speakers


def _flite_voice(random: Random) -> Voice:
    name, gender, pitch = random.choice(FLITE_VOICES)
    stretch = round(random.uniform(0.8, 1.0), 2)
    return FliteVoice(name, gender, stretch, round(pitch * random.uniform(0.85, 1.15)))


def make_mini_slurp(corpus: Path, config: MiniSlurpConfig, nj: int = 2) -> bool:
    """Make ``corpus`` unless it is there already, made with the same settings.

    The same settings give the same corpus, whatever ``nj``, the number of processes.

    Returns:
        Whether the corpus was made.

    Raises:
        HJPruneError: the templates have too few sentences, a synthesiser is missing or fails, or
            the directory holds another corpus.
    """
    if is_made(corpus, config):
        return False
    random = Random(config.seed)
    drawn = _draw(config, random)
    speakers = _speakers(random)
    slurp_id, number = FIRST_PROMPT, FIRST_RECORDING
    metadata: dict[str, Any] = {}
    recordings: list[SyntheticRecording] = []
    with new_corpus(corpus, config) as directory:
        for name, prompts in drawn.items():
            lines = []
            for scenario, action, phrase in prompts:
                takes: list[tuple[str, str, Voice, float | None]] = []
                if name == SYNTHETIC:
                    number += random.randint(1, 99)
                    takes.append((f"synth-{number}.flac", "", _flite_voice(random), None))
                else:
                    for take, (usrid, voice) in enumerate(random.sample(speakers, TAKES)):
                        number += random.randint(1, 99)
                        takes.append((f"audio-{number}-headset.flac", usrid, voice, None))
                        if take == 0:
                            # From a distance: the noise comes close to the speech.
                            snr = random.uniform(5.0, 15.0)
                            takes.append((f"audio-{number}.flac", usrid, voice, snr))
                    metadata[str(slurp_id)] = {
                        "recordings": {
                            file: {"status": "correct", "usrid": usrid}
                            for file, usrid, _, _ in takes
                        },
                        "sentence_normalised": phrase.text,
                    }
                files = tuple(file for file, *_ in takes)
                prompt = Prompt(slurp_id, scenario, action, phrase, files)
                audio = audio_dir(directory, name)
                recordings += [
                    SyntheticRecording(audio / file, phrase.text, voice, snr)
                    for file, _, voice, snr in takes
                ]
                lines.append(json.dumps(prompt.entry()) + "\n")
                slurp_id += 1
            write_text(annotation_path(directory, name), "".join(lines))
        write_text(metadata_path(directory), json.dumps(metadata, indent=1) + "\n")
        seconds = record_all(recordings, SAMPLE_RATE, config.seed, nj)
    logging.info("%s: %d recordings, %.1f minutes", corpus, len(seconds), sum(seconds) / 60)
    return True
