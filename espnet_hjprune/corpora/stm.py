"""STM files: who says what and when in a recording, and the marks in TED-LIUM's words."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from espnet_hjprune.atomic import write_text
from espnet_hjprune.data.lines import read_lines
from espnet_hjprune.errors import HJPruneError

NO_SPEECH = "ignore_time_segment_in_scoring"
# <sil>, <unk>, {NOISE}, [COUGH], and numbers of pronunciations such as (2)
MARKER = re.compile(r"<[^<>]*>|\{[^{}]*\}|\[[^\[\]]*\]|\([^()]*\)")
# <o,f0,male> in release 2 and 3, <F0_M> and <NA> elsewhere
LABEL = re.compile(r"<[^<>]*,[^<>]*>|<F\d_[MF]>|<NA>", re.IGNORECASE)
GENDERS = {"male": "m", "female": "f", "f0_m": "m", "f0_f": "f"}


@dataclass(frozen=True)
class StmLine:
    """A line of an stm file: who says what, from ``start`` to ``end`` seconds of a talk."""

    talk: str
    speaker: str
    start: float
    end: float
    label: str
    words: str

    @property
    def gender(self) -> str | None:
        """``m`` or ``f``; ``None`` where the label does not say."""
        return GENDERS.get(self.label.strip("<>").split(",")[-1].lower())


def read_stm(path: Path) -> Iterator[StmLine]:
    """Read ``talk channel speaker start end <label> words``; comments are left out.

    Raises:
        HJPruneError: a line has another form, or the file is no text in UTF-8.
    """
    for number, line in enumerate(read_lines(path), 1):
        if not line.strip() or line.startswith(";;"):
            continue
        # Filled up with empty words, so that a line that is too short fails by its times.
        talk, _, speaker, start, end, *rest = [*line.split(), *[""] * 5]
        try:
            times = float(start), float(end)
        except ValueError:
            times = (0.0, 0.0)
        if not 0 <= times[0] < times[1] < math.inf:
            raise HJPruneError(
                f"{path}:{number} is no line 'talk channel speaker start end <label> words'; "
                "correct it"
            )
        label = rest.pop(0) if LABEL.fullmatch(rest[0]) else ""
        yield StmLine(talk, speaker, *times, label, " ".join(rest).strip())


def write_stm(path: Path, lines: Iterable[StmLine]) -> None:
    """Write the stm file of a talk."""
    text = "".join(
        f"{line.talk} 1 {line.speaker} {line.start:.2f} {line.end:.2f} {line.label} {line.words}\n"
        for line in lines
    )
    write_text(path, text)
