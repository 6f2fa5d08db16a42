"""Names of utterances and speakers, which become names of files and marks in sclite's tables."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Mapping
from pathlib import Path

from espnet_hjprune.errors import HJPruneError

# File systems take 255 bytes, of which a suffix and the mark of another speed need some.
MAX_BYTES = 240
# Control and format characters, by Unicode's categories.
_INVISIBLE = ("Cc", "Cf")
# Letters of a long name that a message shows.
_SHOWN = 40


def shown(name: str) -> str:
    """The name as messages have it: long ones cut, and what cannot be seen written out."""
    text = name if len(name) <= _SHOWN else f"{name[:_SHOWN]}..."
    return text if text.isprintable() else ascii(text).strip("'\"")


def check_ids(utt_ids: Iterable[str], source: str | Path) -> None:
    """Make sure that files can be called after utterances, and that their names can be seen.

    Args:
        utt_ids: the names.
        source: the table that they are from.

    Raises:
        HJPruneError: a name has a ``/`` or something invisible, or is too long.
    """
    for utt_id in utt_ids:
        if "/" in utt_id:
            problem = "has a '/', which no file can be called after"
        elif any(unicodedata.category(letter) in _INVISIBLE for letter in utt_id):
            problem = "has a character that cannot be seen"
        elif len(utt_id.encode()) > MAX_BYTES:
            problem = f"has a name of {len(utt_id.encode())} bytes, more than {MAX_BYTES}"
        else:
            continue
        raise HJPruneError(f"utterance {shown(utt_id)} of {source} {problem}; rename it")


def check_scored_ids(utt2spk: Mapping[str, str], source: str | Path) -> None:
    """Make sure that sclite can hold the names, and tell them apart.

    It is given ``(<speaker>-<utterance>)``, and takes capital letters of ASCII for small ones.

    Args:
        utt2spk: speakers by utterance.
        source: the table that they are from.

    Raises:
        HJPruneError: a name cannot be held, or is like another.
    """
    seen: dict[bytes, str] = {}
    for utt_id, speaker in utt2spk.items():
        mark = f"{speaker}-{utt_id}"
        if not {"(", ")"}.isdisjoint(mark):
            raise HJPruneError(
                f"utterance {shown(utt_id)} of {source} or its speaker has a parenthesis, which "
                "sclite cannot read; rename it"
            )
        folded = mark.encode().lower()  # bytes: the letters of ASCII only
        if folded in seen:
            raise HJPruneError(
                f"utterances {shown(seen[folded])} and {shown(utt_id)} of {source} are one to "
                "sclite, which reads '<speaker>-<utterance>' and takes capital letters for small "
                "ones; rename one"
            )
        seen[folded] = utt_id


def check_speakers(utt2spk: Mapping[str, str], source: str | Path) -> None:
    """Make sure that speakers are single words.

    Raises:
        HJPruneError: one is none.
    """
    for utt_id, speaker in utt2spk.items():
        if len(speaker.split()) != 1:
            raise HJPruneError(
                f"utterance {shown(utt_id)} of {source} has the speaker '{speaker}', which is not "
                "one word; correct it"
            )


def same_letters(utt_id: str, table: Iterable[str]) -> str:
    """A hint, if a table has the name in another coding of its letters; empty otherwise."""
    wanted = unicodedata.normalize("NFKC", utt_id)
    for name in table:
        if unicodedata.normalize("NFKC", name) == wanted:
            return f" (it is there as {name!a}, not {utt_id!a})"
    return ""
