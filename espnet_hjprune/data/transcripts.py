"""Transcripts in the one form that training and scoring read alike.

ESPnet and sclite take every white space of Unicode for the end of a word, token lists cannot hold
it as a token, and what nobody sees makes two words of one.
"""

from __future__ import annotations

import logging
import unicodedata
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from espnet_hjprune.listing import named

# Zero width: a space between words, and what joins them (U+FEFF is a byte-order mark elsewhere).
_ZERO_WIDTH_SPACE = "\u200b"
_JOINERS = ("\u2060", "\ufeff")


def _replacement(character: str) -> str:
    """What stands for a character: a space for white space and control characters, or itself."""
    if character in _JOINERS:
        return ""
    is_space = character.isspace() or character == _ZERO_WIDTH_SPACE
    return " " if is_space or unicodedata.category(character) == "Cc" else character


def odd_characters(text: str) -> set[str]:
    """White space other than U+0020, control characters and what has no width."""
    return {c for c in text if c != " " and _replacement(c) != c}


def plain_text(text: str) -> str:
    r"""The text with single plain spaces between its words, and nothing else that has no glyph.

    Marks that letters are joined with, such as U+200D in scripts of India, stay.

    Example:
        >>> plain_text("it is\u00a0 late\u3000now\ufeff")
        'it is late now'
    """
    return " ".join("".join(map(_replacement, text)).split())


def plain_transcripts(transcripts: Mapping[str, str], source: str | Path) -> dict[str, str]:
    """Transcripts by utterance in their plain form; what that changes is counted in a warning.

    Args:
        transcripts: as they are.
        source: the file that they are from.
    """
    plain = {utt_id: plain_text(text) for utt_id, text in transcripts.items()}
    changed = [utt_id for utt_id, text in transcripts.items() if text != plain[utt_id]]
    if changed:
        odd = Counter(c for utt_id in changed for c in odd_characters(transcripts[utt_id]))
        names = [f"U+{ord(c):04X} {unicodedata.name(c, '')}".strip() for c, _ in odd.most_common()]
        logging.warning(
            "%s: %d of %d transcripts, such as that of %s, now have single plain spaces between "
            "their words; they had %s",
            source,
            len(changed),
            len(plain),
            changed[0],
            named(names) if names else "several spaces",
        )
    return plain
