"""Closed grammars: sentences that take one word from every slot."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from random import Random

from espnet_hjprune.errors import HJPruneError


@dataclass(frozen=True)
class Grammar:
    """A sentence has one word of every slot, in order."""

    slots: tuple[tuple[str, ...], ...]

    @property
    def size(self) -> int:
        """The number of different sentences."""
        return prod(len(words) for words in self.slots)

    def sentence(self, index: int) -> str:
        """The sentence number ``index`` of 0 ... size - 1; the last slot changes fastest."""
        words: list[str] = []
        for slot in reversed(self.slots):
            index, choice = divmod(index, len(slot))
            words.append(slot[choice])
        return " ".join(reversed(words))

    def sample(self, count: int, random: Random) -> list[str]:
        """``count`` different sentences in random order.

        Raises:
            HJPruneError: the grammar has fewer sentences.
        """
        if count > self.size:
            raise HJPruneError(
                f"the grammar has {self.size} sentences only, and {count} are asked for; "
                "ask for fewer utterances"
            )
        return [self.sentence(index) for index in random.sample(range(self.size), count)]


# The sentence plan of the GRID corpus. Left out: W, the one letter name of three syllables, and
# A, which speech synthesisers read as the article.
COMMANDS = Grammar(
    (
        ("BIN", "LAY", "PLACE", "SET"),
        ("BLUE", "GREEN", "RED", "WHITE"),
        ("AT", "BY", "IN", "WITH"),
        tuple("BCDEFGHIJKLMNOPQRSTUVXYZ"),
        ("ZERO", "ONE", "TWO", "THREE", "FOUR", "FIVE", "SIX", "SEVEN", "EIGHT", "NINE"),
        ("AGAIN", "NOW", "PLEASE", "SOON"),
    )
)
