"""Runs jobs on a Slurm cluster, as one array."""

from __future__ import annotations

import json
import logging
import shutil
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from espnet_hjprune.atomic import write_text
from espnet_hjprune.errors import HJPruneError
from espnet_hjprune.sweep.job import Job, run_job

# Seldom enough for the cluster's controller, which many users ask.
POLL_SECONDS = 5.0
# Files of a job may show up late on a network file system.
GRACE_SECONDS = 30.0
# For which squeue may give no answer, as where a cluster is restarted.
PATIENCE_SECONDS = 1800.0


def run_on_cluster(
    jobs: Sequence[Job],
    parallel: int,
    parameters: Mapping[str, Any],
    directory: Path,
    ended: Callable[[Job, bool], None],
    poll: Callable[[Sequence[Job]], None],
) -> None:
    """Submit jobs and follow them until all have ended.

    Jobs that an earlier call submitted and that are still in the queue are followed, not
    submitted again. An interrupt leaves all of them there.

    Args:
        jobs: the jobs.
        parallel: jobs that run at once.
        parameters: of the jobs, as submitit's executors name them.
        directory: for submitit's files; all nodes must see it.
        ended: called with every job that has ended and whether it is finished.
        poll: called every few seconds with the jobs that are in the queue.

    Raises:
        HJPruneError: submitit or Slurm is missing, or refuses the jobs.
    """
    _check_programs()
    queued = _queue()
    numbers = {job: _submitted(job, queued) for job in jobs}
    # Points of an earlier call may have ended since the caller looked.
    new = [
        job
        for job in jobs
        if numbers[job] not in queued and not (job.result is not None and job.is_finished())
    ]
    if len(new) < len(jobs):
        logging.info("%d jobs were submitted before", len(jobs) - len(new))
    if new:
        numbers |= _submit(new, parallel, parameters, directory)
    left = list(jobs)
    missing: dict[Job, float] = {}
    answered = time.monotonic()
    while left:
        time.sleep(POLL_SECONDS)
        try:
            queued = _queue()
            answered = time.monotonic()
        except HJPruneError:
            if time.monotonic() - answered > PATIENCE_SECONDS:
                raise
            continue
        for job in list(left):
            if numbers[job] in queued:
                missing.pop(job, None)
                continue
            gone = time.monotonic() - missing.setdefault(job, time.monotonic())
            if job.is_finished() or gone > GRACE_SECONDS:
                left.remove(job)
                ended(job, job.is_finished())
        poll([job for job in left if job not in missing])


def jobs_in_queue(jobs: Sequence[Job]) -> list[Job]:
    """Those of the jobs that an earlier call submitted and that have not ended.

    Raises:
        HJPruneError: Slurm is missing, or one is there with other commands.
    """
    _check_programs()
    queued = _queue()
    return [job for job in jobs if _submitted(job, queued) in queued]


def _check_programs() -> None:
    """Refuse a machine that is no part of a cluster."""
    for program in ("sbatch", "squeue"):
        if shutil.which(program) is None:
            raise HJPruneError(
                f"launcher: slurm needs the program {program}, which is not here; start the sweep "
                "where jobs can be submitted, or set launcher: local"
            )


def _submit(
    jobs: Sequence[Job], parallel: int, parameters: Mapping[str, Any], directory: Path
) -> dict[Job, str]:
    """Submit an array and note the number of every job in its directory."""
    try:
        import submitit
    except ImportError as error:
        raise HJPruneError(
            f"launcher: slurm needs the package submitit ({error}); install it or set launcher: "
            "local"
        ) from error
    try:
        executor = submitit.AutoExecutor(folder=directory, cluster="slurm")
        executor.update_parameters(**{"name": "hj_prune", **parameters})
        executor.update_parameters(slurm_array_parallelism=parallel)
        for job in jobs:
            # What an earlier try left would be taken for that of this one.
            job.forget()
        with executor.batch():
            submitted = [executor.submit(run_job, job) for job in jobs]
        numbers = [handle.job_id for handle in submitted]
    except Exception as error:
        reason = " ".join(str(error).split())
        raise HJPruneError(
            f"the jobs could not be submitted ({reason}); look at the parameters under slurm"
        ) from error
    for job, number in zip(jobs, numbers, strict=True):
        commands = [list(command) for command in job.commands]
        write_text(
            job.directory / "slurm_job", json.dumps({"number": number, "commands": commands}) + "\n"
        )
    logging.info("Submitted %d jobs: %s to %s", len(jobs), numbers[0], numbers[-1])
    return dict(zip(jobs, numbers, strict=True))


def _submitted(job: Job, queued: set[str]) -> str:
    """Number of the job that was submitted last for this one, or nothing.

    Raises:
        HJPruneError: that job is in the queue and does something else.
    """
    try:
        noted = json.loads((job.directory / "slurm_job").read_text(encoding="utf-8"))
        number, commands = str(noted["number"]), noted["commands"]
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return ""
    if number in queued and commands != [list(command) for command in job.commands]:
        raise HJPruneError(
            f"{job.name} is in the queue with other options, as job {number}; wait for it or "
            f"cancel it (scancel {number})"
        )
    return number


def _queue() -> set[str]:
    """Numbers of all of this user's jobs that wait or run, those of arrays as ``12_3``."""
    done = subprocess.run(
        ["squeue", "--me", "--noheader", "--array", "--format", "%i"],
        capture_output=True,
        text=True,
    )
    if done.returncode != 0:
        raise HJPruneError(f"squeue failed: {' '.join(done.stderr.split())}")
    return set(done.stdout.split())
