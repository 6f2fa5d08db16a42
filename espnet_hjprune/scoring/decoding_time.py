"""Real-time factor of a decoding: measured in batches, or from time stamps in ESPnet's logs."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path

from espnet_hjprune.atomic import write_text
from espnet_hjprune.constants import SAMPLE_RATE

# What batched decoding leaves beside its results.
TIMING_FILE = "timing.json"
_STAMP = re.compile(r"(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3}) ")
_LENGTH = re.compile(r"speech length: (\d+)")


@dataclass(frozen=True)
class DecodingTime:
    """Seconds of computation and of audio, for the utterances that a decoding finished.

    Computation is the wall time in which encoder or search were at work, on one utterance or batch
    at least; where both are, it counts once. Reading audio is no part of it.
    """

    utterances: int = 0
    compute: float = 0.0
    audio: float = 0.0

    def __add__(self, other: DecodingTime) -> DecodingTime:
        """Add up two decodings."""
        return DecodingTime(
            self.utterances + other.utterances,
            self.compute + other.compute,
            self.audio + other.audio,
        )

    @property
    def real_time_factor(self) -> float | None:
        """Computation over audio, or None when nothing was timed."""
        return self.compute / self.audio if self.audio else None


def parse_decoding_log(lines: Iterable[str]) -> DecodingTime:
    """Sum up the time between ``speech length: N`` and ``best hypo:`` of each utterance.

    That is features, encoder and search of one utterance at a time, without loading the model. An
    utterance that has no ``best hypo:`` (too short to decode) is left out.
    """
    total = DecodingTime()
    begin: datetime | None = None
    samples = 0
    for line in lines:
        if not (stamp := _STAMP.search(line)):
            continue
        now = datetime.strptime(stamp[1], "%Y-%m-%d %H:%M:%S,%f")
        if length := _LENGTH.search(line):
            begin, samples = now, int(length[1])
        elif begin and "best hypo: " in line:
            total += DecodingTime(1, (now - begin).total_seconds(), samples / SAMPLE_RATE)
            begin = None
    return total


def write_timing(directory: Path, total: DecodingTime) -> None:
    """Write the times of a decoding in batches."""
    write_text(directory / TIMING_FILE, json.dumps(asdict(total)) + "\n")


def read_decoding_time(set_dir: str | Path) -> DecodingTime:
    """Sum up the timings and ``*.log`` files below a decoded set; none give an empty sum."""
    total = DecodingTime()
    for path in sorted(Path(set_dir).rglob(TIMING_FILE)):
        total += DecodingTime(**json.loads(path.read_text(encoding="utf-8")))
    for path in sorted(Path(set_dir).rglob("*.log")):
        with path.open(encoding="utf-8", errors="replace") as lines:
            total += parse_decoding_log(lines)
    return total
