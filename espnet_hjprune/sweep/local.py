"""Runs jobs on this machine, some at once."""

from __future__ import annotations

import os
import queue
import signal
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from types import FrameType

from espnet_hjprune.sweep.job import Job, ProcessGroups, run_job

# How often the stages of running jobs are looked up, in seconds.
POLL_SECONDS = 2.0
# End the jobs too, as an interrupt does; the second comes when the terminal is closed.
ENDING_SIGNALS = (signal.SIGTERM, signal.SIGHUP)


def run_here(
    jobs: Sequence[Job],
    parallel: int,
    gpus_per_job: int,
    ended: Callable[[Job, bool], None],
    poll: Callable[[Sequence[Job]], None],
) -> None:
    """Run jobs until all have ended.

    Args:
        jobs: in the order in which they start.
        parallel: jobs that run at once; they share CPUs and GPUs.
        gpus_per_job: GPUs that each job sees; 0 for all.
        ended: called with every job that has ended and whether it is finished.
        poll: called every few seconds with the jobs that are running.
    """
    places = queue.SimpleQueue[int]()
    for place in range(parallel):
        places.put(place)
    devices = _gpus() if parallel > 1 and gpus_per_job > 0 else []
    running: list[Job] = []
    groups = ProcessGroups()

    def work(job: Job) -> bool:
        place = places.get()
        running.append(job)
        try:
            environment = {}
            if parallel > 1 and "OMP_NUM_THREADS" not in os.environ:
                cpus = len(os.sched_getaffinity(0))
                environment["OMP_NUM_THREADS"] = str(max(1, cpus // parallel))
            if devices:
                first = place * gpus_per_job
                mine = {devices[n % len(devices)]: None for n in range(first, first + gpus_per_job)}
                environment["CUDA_VISIBLE_DEVICES"] = ",".join(mine)
            return run_job(job, environment, groups) == 0
        finally:
            running.remove(job)
            places.put(place)

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    previous = {number: signal.signal(number, interrupt) for number in ENDING_SIGNALS}
    pool = ThreadPoolExecutor(parallel)
    try:
        waiting: dict[Future[bool], Job] = {pool.submit(work, job): job for job in jobs}
        while waiting:
            done, _ = wait(waiting, POLL_SECONDS, FIRST_COMPLETED)
            for future in done:
                ended(waiting.pop(future), future.result())
            poll(list(running))
    finally:
        groups.stop()
        pool.shutdown(cancel_futures=True)
        for number, handler in previous.items():
            signal.signal(number, handler)


def _gpus() -> list[str]:
    """Names of the GPUs that jobs may use."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [name for name in visible.split(",") if name]
    import torch

    return [str(number) for number in range(torch.cuda.device_count())]
