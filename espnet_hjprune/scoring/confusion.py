"""Which labels a classifier takes for which: counts, accuracy, macro F1, most confused pairs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from espnet_hjprune.data.datadir import read_table
from espnet_hjprune.errors import HJPruneError
from espnet_hjprune.scoring.case import fold_case

# Shown for an utterance that has no label in the hypothesis.
NOTHING = "(nothing)"


@dataclass(frozen=True)
class Confusion:
    """How often label ``true`` was taken for label ``predicted``, by (true, predicted)."""

    counts: Counter[tuple[str, str]]

    @property
    def labels(self) -> list[str]:
        """Labels that are true of some utterance or were predicted, in alphabetical order."""
        return sorted({label for pair in self.counts for label in pair})

    @property
    def total(self) -> int:
        """The number of utterances."""
        return sum(self.counts.values())

    @property
    def correct(self) -> int:
        """The number of utterances with the right label."""
        return sum(count for (true, predicted), count in self.counts.items() if true == predicted)

    @property
    def accuracy(self) -> float:
        """Utterances with the right label, in percent."""
        return 100.0 * self.correct / self.total

    @property
    def macro_f1(self) -> float:
        """Mean F1 in percent over the labels that are true of some utterance.

        A label's F1 is twice its hits over the sum of how often it is true and was predicted.
        """
        true, predicted = Counter[str](), Counter[str]()
        for (expected, got), count in self.counts.items():
            true[expected] += count
            predicted[got] += count
        scores = [
            2.0 * self.counts[label, label] / (true[label] + predicted[label]) for label in true
        ]
        return 100.0 * sum(scores) / len(scores)

    def most_confused(self, number: int = 10) -> list[tuple[str, str, int]]:
        """Pairs of labels that are taken for each other most often, in either direction.

        Returns:
            (label, label, utterances), the most frequent first; the first label of a pair is the
            one that is taken for the other more often.
        """
        pairs: Counter[tuple[str, str]] = Counter()
        for (true, predicted), count in self.counts.items():
            if true != predicted:
                pairs[min(true, predicted), max(true, predicted)] += count
        found = []
        for (first, second), count in pairs.items():
            if self.counts[second, first] > self.counts[first, second]:
                first, second = second, first
            found.append((first, second, count))
        return sorted(found, key=lambda pair: (-pair[2], pair[:2]))[:number]


def count_confusion(reference: Mapping[str, str], hypothesis: Mapping[str, str]) -> Confusion:
    """Count by utterance; one that the hypothesis lacks, or leaves empty, has no label.

    Labels that :func:`.fold_case` makes equal are one, spelt as in the reference.

    Raises:
        HJPruneError: there is no utterance, or one whose reference is not one word.
    """
    for utt_id, label in reference.items():
        if len(label.split()) != 1:
            raise HJPruneError(
                f"the reference of utterance {utt_id} is '{label}', not one label; use --metric wer"
            )
    if not reference:
        raise HJPruneError("the reference has no utterances; prepare the data again")
    pairs = [(label, hypothesis.get(utt_id, "") or NOTHING) for utt_id, label in reference.items()]
    spelling: dict[str, str] = {}
    for label in (*(true for true, _ in pairs), *(predicted for _, predicted in pairs)):
        spelling.setdefault(fold_case(label), label)
    return Confusion(
        Counter(
            (spelling[fold_case(true)], spelling[fold_case(predicted)]) for true, predicted in pairs
        )
    )


def read_confusion(reference: str | Path, hypothesis: str | Path) -> Confusion:
    """Count from two ``utterance label`` files.

    Raises:
        HJPruneError: as :func:`count_confusion`, or a file is missing or malformed.
    """
    return count_confusion(read_table(reference), read_table(hypothesis))


def classification_table(confusions: Mapping[str, Confusion]) -> list[list[str]]:
    """Return the rows of a table of accuracy and macro F1, one a set."""
    rows = [["dataset", "utterances", "labels", "accuracy (%)", "macro F1 (%)"]]
    for name, confusion in confusions.items():
        labels = len({true for true, _ in confusion.counts})
        figures = [f"{confusion.accuracy:.2f}", f"{confusion.macro_f1:.2f}"]
        rows.append([name, str(confusion.total), str(labels), *figures])
    return rows


def confused_table(confusion: Confusion, number: int = 10) -> list[list[str]]:
    """Return the rows of a table of the pairs that are confused most often."""
    rows = [["pair", "utterances", "first taken for second", "second taken for first"]]
    for first, second, count in confusion.most_confused(number):
        there, back = confusion.counts[first, second], confusion.counts[second, first]
        rows.append([f"{first}, {second}", str(count), str(there), str(back)])
    return rows
