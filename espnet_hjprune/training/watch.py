"""Progress of a running job, read from the logs it writes."""

from __future__ import annotations

import math
import os
import re
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from tqdm import tqdm

from espnet_hjprune.progress import LINE_SECONDS
from espnet_hjprune.training.training_log import TrainingLog

# Often enough for a bar that moves, too seldom to be felt beside the job.
POLL_SECONDS = 0.5
# The line that batched decoding logs.
_BATCH = re.compile(r": decoded (\d+) utterances in ")
# The lines that say how a pruning starts: how far its gates can go, and what they do to the loss.
_START = re.compile(r"\((?:travel|initial_loss):\d+\) [A-Z]+: (.*)")
# What is shown of the training statistics, if it is there.
SHOWN = ("loss_ctc", "loss", "acc", "cer_ctc", "sparsity", "target_sparsity")
SHOWN_VALID = ("cer_ctc", "acc")


class Tail:
    """The lines that are added to a file, which need not exist yet."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.position = 0

    def lines(self) -> Iterator[str]:
        """Complete lines that are new since the last call."""
        if not self.path.is_file():
            return
        with self.path.open("rb") as file:
            file.seek(self.position)
            complete, newline, _ = file.read().rpartition(b"\n")
        # What comes behind the last line's end is read again, once the line is complete.
        self.position += len(complete) + len(newline)
        if newline:
            yield from complete.decode("utf-8", errors="replace").split("\n")


class TrainingProgress:
    """Batches that a training has done, and its newest statistics."""

    def __init__(self, log: Path, batches_per_epoch: int) -> None:
        self.tail = Tail(log)
        self.log = TrainingLog()
        self.batches_per_epoch = batches_per_epoch

    def update(self) -> tuple[int, str]:
        """Batches done so far, and a short text."""
        for line in self.tail.lines():
            self.log.feed(line)
            if start := _START.search(line):
                tqdm.write(start[1], file=sys.stderr)
        done, stats = 0, {}
        if self.log.epochs:
            last = max(self.log.epochs)
            done, stats = last * self.batches_per_epoch, self.log.epochs[last].get("train", {})
        if self.log.intervals:
            newest = self.log.intervals[-1]
            position = (newest.epoch - 1) * self.batches_per_epoch + newest.batch
            if position > done:
                done, stats = position, newest.stats
        shown = [f"{name}={stats[name]:.3g}" for name in SHOWN if name in stats]
        if self.log.epochs:
            valid = self.log.epochs[max(self.log.epochs)].get("valid", {})
            # A model without CTC has an error rate that is not a number.
            shown += [
                f"valid {name}={valid[name]:.3g}"
                for name in SHOWN_VALID
                if not math.isnan(valid.get(name, math.nan))
            ]
        return done, " ".join(shown)


class DecodingProgress:
    """Utterances that parallel decoding jobs have done."""

    def __init__(self, directory: Path, jobs: int) -> None:
        self.tails = [Tail(directory / f"decode.{job}.log") for job in range(1, jobs + 1)]
        self.done = 0

    def update(self) -> tuple[int, str]:
        """Utterances done so far, and no text."""
        for tail in self.tails:
            for line in tail.lines():
                if batch := _BATCH.search(line):
                    self.done += int(batch[1])
                elif "best hypo: " in line:
                    self.done += 1
        return self.done, ""


def is_running(pid: int) -> bool:
    """Whether a process lives; one that has ended but was not waited for does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
        return state != "Z"
    except FileNotFoundError:
        if Path("/proc/self/stat").exists():
            return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def follow(
    update: Callable[[], tuple[int, str]], total: int, pid: int, title: str, unit: str
) -> None:
    """Show a bar with the time to go until process ``pid`` ends.

    When standard error is no terminal, a line is printed about every 20 seconds instead.
    """
    terminal = sys.stderr.isatty()
    interval = 0.1 if terminal else LINE_SECONDS
    with tqdm(
        total=total,
        desc=title,
        unit=unit,
        mininterval=interval,
        dynamic_ncols=terminal,
        ascii=not terminal,
        disable=not terminal,
        smoothing=0.05,
    ) as bar:
        first: int | None = None
        begin = printed = time.monotonic()
        alive = True
        while alive:
            alive = is_running(pid)
            done, text = update()
            done = min(done, total)
            if first is None and done:
                # What an earlier run did says nothing about the speed of this one.
                first, begin = done, time.monotonic()
                bar.initial = bar.n = done
            bar.set_postfix_str(text, refresh=False)
            bar.update(done - bar.n)
            now = time.monotonic()
            if not terminal and (now - printed >= LINE_SECONDS or not alive):
                printed = now
                rate = (done - first) / (now - begin) if first is not None and now > begin else 0.0
                left = f", about {_clock((total - done) / rate)} to go" if rate > 0 else ""
                print(f"{title}: {done}/{total} {unit}{left} {text}", file=sys.stderr, flush=True)
            if alive:
                time.sleep(POLL_SECONDS)


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}"
