"""Sentence templates: ``wake me up at [time]`` with words for every slot."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product

_SLOT = re.compile(r"\[(\w+)\]")


@dataclass(frozen=True)
class Phrase:
    """One sentence of a template.

    Attributes:
        text: its words.
        annotation: the same with ``[slot : words]`` where a slot was filled.
        entities: name of the slot, and the numbers of its words in ``text`` from 0.
    """

    text: str
    annotation: str
    entities: tuple[tuple[str, tuple[int, ...]], ...]


def phrases(template: str, lexicon: Mapping[str, Sequence[str]]) -> list[Phrase]:
    """All sentences of a template, every combination of slot values once.

    Args:
        template: words and ``[slot]`` names.
        lexicon: values of every slot.
    """
    pieces = _SLOT.split(template)
    words, slots = pieces[::2], pieces[1::2]
    found = []
    for values in product(*(lexicon[slot] for slot in slots)):
        text, annotation, entities = words[0], words[0], []
        for slot, value, rest in zip(slots, values, words[1:], strict=True):
            start = len(text.split())
            entities.append((slot, tuple(range(start, start + len(value.split())))))
            text += value + rest
            annotation += f"[{slot} : {value}]{rest}"
        found.append(Phrase(text, annotation, tuple(entities)))
    return found
