"""Reading the audio of utterances, batch by batch, and ahead of its use."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Generic, TypeVar

import numpy as np
import torch

from espnet_hjprune.constants import SAMPLE_RATE
from espnet_hjprune.data.audio import EmptyAudioError, probe, read_mono
from espnet_hjprune.data.datadir import read_table
from espnet_hjprune.errors import HJPruneError

T = TypeVar("T")


def read_samples(location: str, is_ark: bool) -> torch.Tensor:
    """Read an utterance ``(samples,)`` at 16 kHz as ESPnet does: integers of archives unscaled.

    Args:
        location: a file, or ``file:offset`` in an archive of Kaldi.
        is_ark: which of the two.

    Raises:
        HJPruneError: the audio cannot be read.
    """
    if not is_ark:
        return torch.from_numpy(read_mono(location, SAMPLE_RATE))
    import kaldiio

    try:
        rate, samples = kaldiio.load_mat(location)
    except (OSError, ValueError, TypeError, RuntimeError, AssertionError) as error:
        raise HJPruneError(f"there is no audio at {location} ({error})") from None
    if rate != SAMPLE_RATE:
        raise HJPruneError(f"{location} has {rate} Hz instead of {SAMPLE_RATE}; run stage 2 again")
    return torch.from_numpy(samples.astype(np.float32))


def read_batch(
    locations: Sequence[str],
    is_ark: bool,
    shape: tuple[int, int] | None = None,
    pin: bool = False,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Read utterances into ``(rows, samples)``, zero after their ends, and their lengths.

    Args:
        locations: of the utterances.
        is_ark: whether they are in archives of Kaldi.
        shape: rows and samples of the result, if the audio fits into them; rows without an
            utterance are as long as the batch. ``None`` for as many as there are.
        pin: use memory that a GPU copies from by itself.

    Raises:
        HJPruneError: the audio cannot be read.
    """
    waves = [read_samples(location, is_ark) for location in locations]
    sizes = [len(wave) for wave in waves]
    longest = max(sizes)
    rows, samples = shape if shape is not None and longest <= shape[1] else (len(waves), longest)
    padded = torch.zeros(rows, samples, pin_memory=pin)
    for row, wave in zip(padded, waves, strict=False):
        row[: len(wave)] = wave
    lengths = torch.tensor(sizes + [samples] * (rows - len(waves)))
    return padded, lengths.pin_memory() if pin else lengths


def count_samples(wav_scp: Mapping[str, str], data_dir: Path, is_ark: bool) -> dict[str, int]:
    """Lengths of the utterances, from ``utt2num_samples`` or from the audio itself.

    Raises:
        HJPruneError: the audio cannot be read.
    """
    table = data_dir / "utt2num_samples"
    known = read_table(table) if table.is_file() else {}
    counts = {}
    for name, location in wav_scp.items():
        if known.get(name, "").isdigit():
            counts[name] = int(known[name])
        elif is_ark:
            counts[name] = len(read_samples(location, is_ark))
        else:
            try:
                info = probe(location)
            except EmptyAudioError:
                counts[name] = 0
                continue
            counts[name] = info.frames * SAMPLE_RATE // info.rate
    return counts


class ReadAhead(Iterator[T], Generic[T]):
    """Results of tasks in their order, some of them worked on before they are asked for.

    What a task raises is raised in its turn. At the end of the ``with`` block threads finish what
    they are at, and nothing more is begun.

    Args:
        tasks: what to do.
        workers: threads; 0 works on a task when its result is asked for.
    """

    def __init__(self, tasks: Iterable[Callable[[], T]], workers: int) -> None:
        self._tasks = iter(tasks)
        self._pool = ThreadPoolExecutor(workers) if workers else None
        self._depth = 2 * workers
        self._begun: deque[Future[T]] = deque()

    def __enter__(self) -> ReadAhead[T]:
        """Begin."""
        self._begin()
        return self

    def __exit__(self, *_: object) -> None:
        """End."""
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

    @property
    def is_ready(self) -> bool:
        """Whether there is a next result that needs no waiting."""
        return bool(self._begun) and self._begun[0].done()

    def __next__(self) -> T:
        """Wait for the next result."""
        if self._pool is None:
            return next(self._tasks)()
        if not self._begun:
            raise StopIteration
        first = self._begun.popleft()
        self._begin()
        return first.result()

    def _begin(self) -> None:
        while self._pool is not None and len(self._begun) < self._depth:
            task = next(self._tasks, None)
            if task is None:
                return
            self._begun.append(self._pool.submit(task))
