"""How every word of a decoded set was recognised, in one letter a word."""

from __future__ import annotations

import re
import subprocess
from collections import defaultdict
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory

from espnet_hjprune.errors import HJPruneError
from espnet_hjprune.scoring.case import fold_case
from espnet_hjprune.scoring.sclite import find_sctk, parse_result

# Stands for an utterance without a letter where the letters of a set are one text.
NO_WORDS = "-"
_PATH = re.compile(r'<PATH id="\(u-(\d+)\)"[^>]*>\n(.*)\n</PATH>')


@dataclass(frozen=True)
class Alignments:
    """Reference and hypothesis of every utterance of a set, aligned by sclite.

    Attributes:
        utterances: ids, as ``ref.trn`` has them (``speaker-utterance``), in alphabetical order.
        letters: for each utterance one letter for every word: ``C`` is right, ``S`` substituted,
            ``D`` deleted, ``I`` inserted. Empty where neither reference nor hypothesis has words.

    Raises:
        HJPruneError: there is no utterance, other letters, or more utterances than letters.

    Example:
        >>> set_ = Alignments(("a-1", "a-2"), ("CCSI", "DC"))
        >>> set_.words, set_.errors
        ([3, 2], [2, 1])
    """

    utterances: tuple[str, ...]
    letters: tuple[str, ...]

    def __post_init__(self) -> None:
        """Check that there is one text of letters for each utterance."""
        if not self.utterances or len(self.utterances) != len(self.letters):
            raise HJPruneError(
                f"there are {len(self.utterances)} utterances and alignments of "
                f"{len(self.letters)}; score the set again by stage 7"
            )
        if strange := set("".join(self.letters)) - set("CSDI"):
            raise HJPruneError(f"'{min(strange)}' is no letter of an alignment; use C, S, D, I")

    @property
    def words(self) -> list[int]:
        """Words of the reference of every utterance."""
        return [len(letters) - letters.count("I") for letters in self.letters]

    @property
    def errors(self) -> list[int]:
        """Substitutions, deletions and insertions together, of every utterance."""
        return [len(letters) - letters.count("C") for letters in self.letters]

    def is_of_same_set(self, other: Alignments) -> bool:
        """Whether the utterances are the same, with references of the same length."""
        return self.utterances == other.utterances and self.words == other.words

    def to_text(self) -> str:
        """All letters as one text, as ``results.json`` has them."""
        return " ".join(letters or NO_WORDS for letters in self.letters)

    @classmethod
    def from_text(cls, utterances: str, letters: str) -> Alignments:
        """Read what :meth:`to_text` made; the ids are one text too."""
        texts = ("" if text == NO_WORDS else text for text in letters.split())
        return cls(tuple(utterances.split()), tuple(texts))


def read_alignments(score_dir: str | Path) -> Alignments:
    """Align a scored set: ``ref.trn``, ``hyp.trn`` and ``result.txt`` of a ``score_wer`` directory.

    sclite aligns numbers in place of the words, so that no character of a word can be taken for
    one of its output's.

    Raises:
        HJPruneError: a file is missing, the three do not belong together, or sclite is missing.
    """
    score_dir = Path(score_dir)
    total = parse_result(score_dir / "result.txt")
    reference, hypothesis = (_read_trn(score_dir / name) for name in ("ref.trn", "hyp.trn"))
    utterances = tuple(sorted(reference))
    number: defaultdict[str, int] = defaultdict(count().__next__)
    with TemporaryDirectory() as work:
        for name, texts in (("ref.trn", reference), ("hyp.trn", hypothesis)):
            lines = []
            for index, utterance in enumerate(utterances):
                words = fold_case(texts.get(utterance, "")).split()
                lines.append(f"{' '.join(f'w{number[word]}' for word in words)}\t(u-{index})\n")
            Path(work, name).write_text("".join(lines), encoding="utf-8")
        command = [*find_sctk("sclite"), "-r", "ref.trn", "trn", "-h", "hyp.trn", "trn"]
        done = subprocess.run(
            [*command, "-i", "rm", "-o", "sgml", "stdout"], cwd=work, capture_output=True, text=True
        )
    found = {
        int(index): "".join(word[0] for word in path.split(":") if word)
        for index, path in _PATH.findall(done.stdout)
    }
    letters = tuple(found.get(index, "") for index in range(len(utterances)))
    counts = (total.sentences, total.words, total.errors)
    if done.returncode == 0 and len(found) == len(utterances) > 0:
        alignments = Alignments(utterances, letters)
        if counts == (len(utterances), sum(alignments.words), sum(alignments.errors)):
            return alignments
    raise HJPruneError(
        f"ref.trn and hyp.trn of {score_dir} do not have the {total.errors} errors of result.txt; "
        f"remove {score_dir.parent / '.done'} and rerun stage 7"
    )


def _read_trn(path: Path) -> dict[str, str]:
    """Texts by id of a trn file."""
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
    except FileNotFoundError:
        raise HJPruneError(f"{path} does not exist; run stage 7 to score that set") from None
    texts = {}
    for line in filter(None, lines):
        text, _, utterance = line.rpartition("(")
        texts[utterance.rstrip(") ")] = text
    return texts
