"""Which differences of error rates mean something: bootstrap over utterances, MAPSSWE, McNemar."""

from __future__ import annotations

import logging
import math
import re
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from typing import TYPE_CHECKING, Any

from espnet_hjprune.errors import HJPruneError
from espnet_hjprune.scoring.alignment import Alignments
from espnet_hjprune.scoring.sclite import find_sctk

if TYPE_CHECKING:
    import numpy as np

RESAMPLES = 10_000
# Of intervals, in percent.
CONFIDENCE = 95
# Reports are the same whenever they are made.
SEED = 0
_Z = re.compile(r"MTCH_PR_RESULTS .*\(Z Stat: *(\S+)\)")


@dataclass(frozen=True)
class Estimate:
    """A figure in percent and its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Comparison:
    """Two systems on one test set.

    Attributes:
        first: metric of the first system.
        second: metric of the second one.
        difference: second minus first, in percentage points.
        better: share of the resamples in which the second is better than the first.
        p_value: of MAPSSWE or, for accuracy, of McNemar's test; ``None`` where there is none.
    """

    first: Estimate
    second: Estimate
    difference: Estimate
    better: float
    p_value: float | None


class ComparedSystems:
    """Several systems that recognised the same utterances, on the same resamples of them.

    The bootstrap draws as many utterances as there are, with replacement, 10,000 times, and
    computes the metric of all systems on each draw; intervals are percentiles of these (Bisani
    and Ney, Bootstrap estimates for confidence intervals in ASR performance evaluation, ICASSP
    2004). A system may be several models that differ in their seed: its metric is the mean of
    theirs on the same utterances, so intervals say nothing about other seeds.

    Args:
        systems: alignments of the models of each system.
        accuracy: the metric is the share of right labels, not the word error rate; references
            have one word then.

    Raises:
        HJPruneError: models have recognised other utterances than one another, or a reference
            has not one word with ``accuracy``.
    """

    def __init__(self, systems: Sequence[Sequence[Alignments]], accuracy: bool = False) -> None:
        one = systems[0][0]
        for model in (model for system in systems for model in system):
            if not one.is_of_same_set(model):
                raise HJPruneError(
                    "the models have recognised other utterances than one another "
                    f"({_other_utterances(one, model)}); decode the same test set by both"
                )
        if accuracy and set(one.words) != {1}:
            raise HJPruneError(
                "accuracy needs references of one word each, and other ones are among these; use "
                "--metric wer"
            )
        self.systems = systems
        self.accuracy = accuracy

    @cached_property
    def _resampled(self) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
        """Metric in percent of each system: on the set, and on every resample (systems, draws)."""
        import numpy as np

        words = np.array(self.systems[0][0].words, dtype=float)
        errors = np.array(
            [np.mean([model.errors for model in system], axis=0) for system in self.systems]
        )

        def metric(chosen: np.ndarray[Any, Any], axis: int) -> np.ndarray[Any, Any]:
            # How often each utterance was drawn: one product then adds up for all systems.
            draws = chosen.reshape(-1, len(words))
            first = len(words) * np.arange(len(draws))[:, None]
            times = np.bincount((draws + first).ravel(), minlength=draws.size)
            times = times.reshape(draws.shape).astype(float)
            rate = 100.0 * (errors @ times.T) / np.maximum(times @ words, 1.0)
            return (100.0 - rate if self.accuracy else rate).reshape(-1, *chosen.shape[:-1])

        everything = np.arange(len(words))
        value = metric(everything, axis=-1)
        if len(words) == 1:
            return value, np.repeat(value[:, None], RESAMPLES, axis=1)
        result = _statistics().bootstrap(
            (everything,),
            metric,
            n_resamples=RESAMPLES,
            batch=100,
            vectorized=True,
            method="percentile",
            rng=np.random.default_rng(SEED),
        )
        return value, result.bootstrap_distribution

    def estimate(self, system: int) -> Estimate:
        """Metric of a system, named by its place, with its interval."""
        values, draws = self._resampled
        return _estimate(values[system], draws[system])

    def compare(self, first: int, second: int) -> Comparison:
        """Compare two systems, named by their places."""
        values, draws = self._resampled
        difference = draws[second] - draws[first]
        better = difference > 0 if self.accuracy else difference < 0
        return Comparison(
            self.estimate(first),
            self.estimate(second),
            _estimate(values[second] - values[first], difference),
            float(better.mean()),
            self._p_value(first, second),
        )

    def _p_value(self, first: int, second: int) -> float | None:
        models = [*self.systems[first], *self.systems[second]]
        # Both tests are for two outputs, not for means over seeds.
        if len(models) != 2:
            return None
        return mcnemar(*models) if self.accuracy else mapsswe(*models)


def _statistics() -> Any:
    """scipy.stats, which takes a second to import."""
    try:
        from scipy import stats
    except ImportError as error:
        raise HJPruneError(
            f"intervals and p-values need scipy ({error}); pip install scipy"
        ) from error
    return stats


def _estimate(value: float, draws: np.ndarray[Any, Any]) -> Estimate:
    import numpy as np

    tail = (100 - CONFIDENCE) / 2
    low, high = np.percentile(draws, [tail, 100 - tail])
    return Estimate(float(value), float(low), float(high))


def _other_utterances(one: Alignments, other: Alignments) -> str:
    """What differs between two sets."""
    for utterance in sorted(set(one.utterances) ^ set(other.utterances)):
        return f"only one has '{utterance}'"
    lengths = zip(one.utterances, one.words, other.words, strict=True)
    utterance, here, there = next(row for row in lengths if row[1] != row[2])
    return f"the reference of '{utterance}' has {here} words for one and {there} for the other"


def mapsswe(first: Alignments, second: Alignments) -> float | None:
    """Return the p-value of the matched-pair sentence-segment word error test, by sc_stats.

    Segments are bounded by two words at least that both recognised, or by the end of the
    utterance; the test is whether the mean difference of their errors is 0 (L. Gillick and S. Cox,
    Some statistical issues in the comparison of speech recognition algorithms, ICASSP 1989). Two
    sided. It takes the mean for normally distributed: with few segments p is rough. Where all
    segments differ by the same number of errors there is no spread to judge by, and p is 1.

    Returns:
        p, or ``None``, with a warning, where sc_stats is not installed.

    Raises:
        HJPruneError: sc_stats fails.
    """
    if not any(first.errors) and not any(second.errors):
        return 1.0
    if (command := _sc_stats()) is None:
        return None
    done = subprocess.run(
        [*command, "-p", "-t", "mapsswe", "-v", "-n", "-"],
        input=_sgml("first", first) + _sgml("second", second),
        capture_output=True,
        text=True,
        errors="replace",
    )
    if done.returncode or not (found := _Z.search(done.stdout)):
        reason = " ".join(done.stderr.split()) or f"exit status {done.returncode}"
        raise HJPruneError(f"sc_stats failed ({reason}); install the Debian package sctk again")
    return math.erfc(abs(float(found[1])) / math.sqrt(2.0))


@cache
def _sc_stats() -> list[str] | None:
    """The command of sc_stats; none, with one warning for all pairs, where it is not installed."""
    try:
        return find_sctk("sc_stats")
    except HJPruneError as error:
        logging.warning("there are no p-values of MAPSSWE: %s", error)
        return None


def _sgml(name: str, alignments: Alignments) -> str:
    """Alignments in the form that sclite hands to sc_stats; numbers stand for words."""
    head = f'<SYSTEM title="{name}" ref_fname="ref" hyp_fname="{name}" creation_date="" '
    head += 'format="2.4" frag_corr="FALSE" opt_del="FALSE" weight_ali="FALSE" weight_filename="">'
    lines = [head, '<SPEAKER id="u">']
    for index, letters in enumerate(alignments.letters):
        words, place = [], 0
        for letter in letters:
            place += letter != "I"
            reference = "" if letter == "I" else f'"{place}"'
            recognised = {"C": reference, "D": ""}.get(letter, '"x"')
            words.append(f"{letter},{reference},{recognised}")
        lines.append(f'<PATH id="(u-{index})" word_cnt="{len(words)}" sequence="{index}">')
        lines += [":".join(words), "</PATH>"]
    return "\n".join([*lines, "</SPEAKER>", "</SYSTEM>\n"])


def mcnemar(first: Alignments, second: Alignments) -> float:
    """Return the p-value of McNemar's exact test: is one system wrong where the other is right?

    It counts the utterances with errors, and so is for utterances of one word: MAPSSWE's segments
    would be these utterances, too few and too much alike for its normal distribution.
    """
    pairs = list(zip(first.errors, second.errors, strict=True))
    only_first = sum(a > 0 and b == 0 for a, b in pairs)
    only_second = sum(b > 0 and a == 0 for a, b in pairs)
    if not only_first + only_second:
        return 1.0
    return float(_statistics().binomtest(only_first, only_first + only_second).pvalue)
