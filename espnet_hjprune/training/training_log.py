"""What ESPnet's trainer wrote to ``train.log``: statistics per logged interval and per epoch."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from espnet_hjprune.errors import HJPruneError

_STARTED = re.compile(r": (\d+)/\d+epoch started")
_INTERVAL = re.compile(r": (\d+)epoch:train:\d+-(\d+)batch: (.*)")
_RESULTS = re.compile(r": (\d+)epoch results: (.*)")
_SECTION = re.compile(r"\[(\w+)\] ")
# A value must be followed by a comma or the end: "time=1 minute and 3 seconds" is no number.
_STAT = re.compile(r"(\w+)=(-?(?:\d+(?:\.\d+)?(?:e[-+]?\d+)?|inf|nan))(?=,|\s*$)")


@dataclass(frozen=True)
class Interval:
    """Mean training statistics of the batches up to ``batch`` of ``epoch``, both from 1."""

    epoch: int
    batch: int
    stats: dict[str, float]


@dataclass
class TrainingLog:
    """A training run, without what a later restart of the same epochs replaced.

    ``intervals`` is in the order of training. ``epochs`` maps an epoch to its statistics by
    section (``train``, ``valid``), in ESPnet's own units.
    """

    intervals: list[Interval] = field(default_factory=list)
    epochs: dict[int, dict[str, dict[str, float]]] = field(default_factory=dict)

    def feed(self, line: str) -> None:
        """Take in the next line; an epoch that starts again replaces its earlier self."""
        if found := _STARTED.search(line):
            first = int(found[1])
            self.intervals = [i for i in self.intervals if i.epoch < first]
            self.epochs = {e: sections for e, sections in self.epochs.items() if e < first}
        elif found := _INTERVAL.search(line):
            self.intervals.append(Interval(int(found[1]), int(found[2]), _stats(found[3])))
        elif found := _RESULTS.search(line):
            _, *parts = _SECTION.split(found[2])
            sections = zip(parts[::2], parts[1::2], strict=True)
            self.epochs[int(found[1])] = {
                name: _stats(text.rstrip(", \n")) for name, text in sections
            }

    def batches_per_epoch(self) -> int:
        """Return the number of batches in an epoch, or the last logged one before any ended."""
        totals = [
            (epoch, sections["train"]["total_count"])
            for epoch, sections in sorted(self.epochs.items())
            if "total_count" in sections.get("train", {})
        ]
        if totals:
            epoch, count = totals[-1]
            return max(1, round(count / epoch))
        return max((interval.batch for interval in self.intervals), default=1)

    def train_series(self, name: str) -> tuple[list[float], list[float]]:
        """Return positions in epochs (1.0 is the end of the first) and training values of ``name``.

        Values come from the logged intervals, or from the epochs where no interval has them; what
        is not finite is left out.
        """
        scale = self.batches_per_epoch()
        points = [
            (interval.epoch - 1 + min(1.0, interval.batch / scale), interval.stats[name])
            for interval in self.intervals
            if math.isfinite(interval.stats.get(name, math.nan))
        ]
        return _columns(points) if points else self.epoch_series("train", name)

    def epoch_series(self, section: str, name: str) -> tuple[list[float], list[float]]:
        """Return the epochs and the finite values of ``name`` in ``section`` at their ends."""
        return _columns(
            (float(epoch), sections[section][name])
            for epoch, sections in sorted(self.epochs.items())
            if math.isfinite(sections.get(section, {}).get(name, math.nan))
        )

    def names(self, section: str) -> list[str]:
        """Return the statistics of ``section`` that some epoch or interval has a value of."""
        found = dict.fromkeys(
            name
            for sections in self.epochs.values()
            for name, value in sections.get(section, {}).items()
            if math.isfinite(value)
        )
        if section == "train":
            for interval in self.intervals:
                found.update(dict.fromkeys(interval.stats))
        return list(found)


def _columns(points: Iterable[tuple[float, float]]) -> tuple[list[float], list[float]]:
    points = list(points)
    return [x for x, _ in points], [y for _, y in points]


def _stats(text: str) -> dict[str, float]:
    return {name: float(value) for name, value in _STAT.findall(text)}


def parse_training_log(lines: Iterable[str]) -> TrainingLog:
    """Read log lines in the order of time."""
    log = TrainingLog()
    for line in lines:
        log.feed(line)
    return log


def read_training_log(exp_dir: str | Path) -> TrainingLog:
    """Read ``train.log`` of an experiment, after the older ``train.<N>.log`` of interrupted runs.

    Raises:
        HJPruneError: there is no log, or none with a line of ESPnet's trainer.
    """
    exp_dir = Path(exp_dir)
    # Rotation counts up with age: train.2.log is older than train.1.log.
    older = sorted(
        (path for path in exp_dir.glob("train.*.log") if path.name.split(".")[1].isdigit()),
        key=lambda path: -int(path.name.split(".")[1]),
    )
    lines: list[str] = []
    for path in [*older, exp_dir / "train.log"]:
        if path.is_file():
            lines += path.read_text(encoding="utf-8", errors="replace").splitlines()
    log = parse_training_log(lines)
    if not log.intervals and not log.epochs:
        raise HJPruneError(
            f"{exp_dir}/train.log has no training statistics; run the training first"
        )
    return log
