"""Work that is shared among processes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import Any


@contextmanager
def parallel_map(nj: int, chunksize: int = 1) -> Iterator[Callable[..., Iterable[Any]]]:
    """Give a function like :func:`map` whose work ``nj`` processes do; one is this process itself.

    Args:
        nj: number of processes.
        chunksize: items that a process is given at a time.
    """
    if nj == 1:
        yield map
        return
    with ProcessPoolExecutor(nj) as pool:
        yield partial(pool.map, chunksize=chunksize)
