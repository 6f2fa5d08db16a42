"""Runs what is not finished of a sweep."""

from __future__ import annotations

import fcntl
import logging
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from fnmatch import fnmatch
from pathlib import Path

from espnet_hjprune.errors import HJPruneError
from espnet_hjprune.progress import progress_bar
from espnet_hjprune.sweep.config import Point, SweepConfig
from espnet_hjprune.sweep.job import Job
from espnet_hjprune.sweep.local import run_here
from espnet_hjprune.sweep.slurm import jobs_in_queue, run_on_cluster


class Sweep:
    """The jobs of a sweep and where they stand.

    Args:
        config: what to run.
        directory: where everything of the sweep is.
        recipe: the recipe's script.

    Raises:
        HJPruneError: there is no such recipe, or no point may run.
    """

    def __init__(self, config: SweepConfig, directory: Path, recipe: Path) -> None:
        if not recipe.is_file():
            raise HJPruneError(
                f"the recipe {recipe} does not exist; start the sweep beside run.sh, or name it "
                "under recipe"
            )
        if config.parallel < 1:
            raise HJPruneError(f"parallel is {config.parallel}, but must be at least 1")
        self.config = config
        self.directory = directory.absolute()
        self.recipe = recipe.absolute()
        self.points = config.points()

    def preparations(self, points: Sequence[Point]) -> list[Job]:
        """One job for each upstream: data, and the fine-tuned model that is pruned."""
        jobs = []
        for upstream in dict.fromkeys(point.upstream for point in points):
            options = self.config.upstream_options(upstream)
            command = self._command(options | {"stage": "1", "stop_stage": "3"})
            name = f"{upstream}-prepare"
            jobs.append(Job(name, self.directory / name, self.recipe.parent, commands=(command,)))
        return jobs

    def job(self, point: Point) -> Job:
        """The job of a point: stages 4 to 7."""
        directory = self.directory / point.name
        result = directory / "results.json"
        # Relative, so that the directory of the sweep may be moved together with the recipe.
        copy = os.path.relpath(result, self.recipe.parent)
        options = dict(point.options)
        train = self._command(options | {"stage": "4", "stop_stage": "6"})
        score = self._command(options | {"results_copy": copy, "stage": "7", "stop_stage": "7"})
        return Job(
            point.name,
            directory,
            self.recipe.parent,
            commands=(train, score),
            result=result,
            locked_command=1,
            lock=self.directory / ".scoring",
        )

    def _command(self, options: Mapping[str, str]) -> tuple[str, ...]:
        """The recipe's command, as it is started in the recipe's directory."""
        words = [f"./{self.recipe.name}"]
        for name, value in options.items():
            words += [f"--{name}", value]
        return tuple(words)

    def run(self, only: str | None = None) -> None:
        """Run what is not finished.

        Args:
            only: pattern of the names of points to run; ``None`` for all.

        Raises:
            HJPruneError: no name fits, or jobs failed, with their names and logs.
        """
        chosen = [point for point in self.points if only is None or fnmatch(point.name, only)]
        if not chosen:
            raise HJPruneError(f"--only '{only}' fits no point; --list shows their names")
        left = [point for point in chosen if not self.job(point).is_finished()]
        done = len(chosen) - len(left)
        logging.info("%d of %d points are finished already", done, len(chosen))
        if not left:
            return
        with self._locked():
            jobs = [self.job(point) for point in left]
            on_cluster = self.config.launcher == "slurm"
            queued = jobs_in_queue(jobs) if on_cluster else []
            new = [point for point, job in zip(left, jobs, strict=True) if job not in queued]
            if new:
                # One after another: upstreams share the data.
                self._run(self.preparations(new), 1, "preparing")
            self._run(jobs, self.config.parallel, "points", done)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Keep other sweeps out of the directory."""
        self.directory.mkdir(parents=True, exist_ok=True)
        with (self.directory / ".running").open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise HJPruneError(
                    f"{self.directory} cannot be locked ({error.strerror}); is another sweep at "
                    "work in it? Wait for it, or give both another --dir"
                ) from error
            yield

    def _run(self, jobs: Sequence[Job], parallel: int, title: str, done: int = 0) -> None:
        """Run jobs under a progress bar that begins at ``done``."""
        failed: list[Job] = []
        with progress_bar(total=done + len(jobs), initial=done, desc=title, unit="job") as bar:

            def ended(job: Job, finished: bool) -> None:
                if finished:
                    logging.info("%s is finished after %.0f s", job.name, job.state().seconds)
                else:
                    failed.append(job)
                    logging.error("%s failed: %s (log: %s)", job.name, job.last_words(), job.log)
                bar.update()

            def poll(running: Sequence[Job]) -> None:
                stages = "; ".join(f"{job.name}: {job.current_stage()}" for job in running)
                bar.set_postfix_str(stages, refresh=sys.stderr.isatty())

            if self.config.launcher == "slurm":
                folder = self.directory / "slurm"
                run_on_cluster(jobs, parallel, self.config.slurm, folder, ended, poll)
            else:
                gpus = int(self.config.options.get("ngpu", 0))
                run_here(jobs, parallel, gpus, ended, poll)
        if failed:
            raise HJPruneError(
                f"{len(failed)} of {len(jobs)} jobs failed: "
                f"{', '.join(job.name for job in failed)}; their logs are "
                f"{self.directory}/<job>/log.txt, and the same command tries them again"
            )
