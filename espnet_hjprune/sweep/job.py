"""One job of a sweep: commands of the recipe, one after the other, with their log and state."""

from __future__ import annotations

import fcntl
import json
import os
import re
import signal
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TextIO

from espnet_hjprune.atomic import write_text

# Exit status of a command that is no program, as in shells.
NOT_STARTED = 126
STAGE = re.compile(r"Stage \d+: (?!finished)(.*)")


@dataclass(frozen=True)
class Job:
    """Work that is either finished or not, and can be repeated at any time.

    Attributes:
        name: what it is called.
        directory: has ``log.txt`` and ``state.json``.
        working_directory: where the commands run.
        commands: run in this order; the first that fails ends the job.
        result: file that the job makes, if it makes one.
        locked_command: number, from 0, of the command that must not run beside that of other
            jobs: the unpruned model, which all share, may have to be decoded.
        lock: file that is locked for it.
    """

    name: str
    directory: Path
    working_directory: Path
    commands: tuple[tuple[str, ...], ...]
    result: Path | None = None
    locked_command: int | None = None
    lock: Path | None = None

    @property
    def log(self) -> Path:
        """Everything that the commands print."""
        return self.directory / "log.txt"

    def is_finished(self) -> bool:
        """Whether these commands have made what they shall make."""
        if self.result is not None and not self.result.is_file():
            return False
        return self.state().commands == [list(command) for command in self.commands]

    def state(self) -> JobState:
        """What the last finished run left behind."""
        try:
            return JobState(**json.loads((self.directory / "state.json").read_text("utf-8")))
        except (FileNotFoundError, ValueError, TypeError):
            return JobState()

    def forget(self) -> None:
        """Remove what an earlier run left."""
        for path in (self.log, self.directory / "state.json", self.result):
            if path is not None:
                path.unlink(missing_ok=True)

    def current_stage(self) -> str:
        """Title of the stage that the log reached last."""
        try:
            text = self.log.read_text(encoding="utf-8", errors="replace")
        except FileNotFoundError:
            return "waiting"
        titles = STAGE.findall(text)
        return titles[-1].strip() if titles else "starting"

    def last_words(self) -> str:
        """The last line of the log, which says what went wrong."""
        try:
            lines = self.log.read_text(encoding="utf-8", errors="replace").split("\n")
        except FileNotFoundError:
            return "there is no log"
        return next((line.strip() for line in reversed(lines) if line.strip()), "the log is empty")


@dataclass
class JobState:
    """A finished job: its commands, its seconds, and when it ended."""

    commands: list[list[str]] = field(default_factory=list)
    seconds: float = 0.0
    finished: str = ""


class ProcessGroups:
    """The process groups that run now, for whoever has to end them."""

    def __init__(self) -> None:
        self._running: set[int] = set()
        self._stopped = False
        self._lock = threading.Lock()

    def add(self, group: int) -> None:
        """Note a new group, and end it at once if all were asked to stop."""
        with self._lock:
            self._running.add(group)
            if self._stopped:
                _terminate(group)

    def remove(self, group: int) -> None:
        """Forget a group that has ended."""
        with self._lock:
            self._running.discard(group)

    def stop(self) -> None:
        """End all groups, those to come too."""
        with self._lock:
            self._stopped = True
            for group in self._running:
                _terminate(group)


def _terminate(group: int) -> None:
    # The recipe then stops its own jobs, which are in groups of their own.
    with suppress(ProcessLookupError):
        os.killpg(group, signal.SIGTERM)


def run_job(
    job: Job,
    environment: Mapping[str, str] | None = None,
    groups: ProcessGroups | None = None,
) -> int:
    """Run the commands of a job and note that it is finished.

    Args:
        job: the job.
        environment: variables to set.
        groups: takes the process group of the running command.

    Returns:
        Exit status of the first command that failed, or 0.
    """
    start = time.monotonic()
    job.directory.mkdir(parents=True, exist_ok=True)
    job.forget()
    groups = groups or ProcessGroups()
    with job.log.open("w", encoding="utf-8") as log:
        for number, command in enumerate(job.commands):
            try:
                with _locked(job.lock if number == job.locked_command else None):
                    status = _run(command, job.working_directory, log, environment or {}, groups)
            except OSError as error:
                log.write(f"{' '.join(command)} cannot be started: {error}\n")
                status = NOT_STARTED
            if status != 0:
                return status
    state = JobState(
        [list(command) for command in job.commands],
        round(time.monotonic() - start, 1),
        datetime.now().astimezone().isoformat(timespec="seconds"),
    )
    write_text(job.directory / "state.json", json.dumps(asdict(state), indent=2) + "\n")
    return 0


def _run(
    command: Sequence[str],
    directory: Path,
    log: TextIO,
    environment: Mapping[str, str],
    groups: ProcessGroups,
) -> int:
    """Run a command in a process group of its own and return its exit status."""
    process = subprocess.Popen(
        command,
        cwd=directory,
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=subprocess.STDOUT,
        env=os.environ | dict(environment),
        start_new_session=True,
    )
    groups.add(process.pid)
    try:
        return process.wait()
    finally:
        if process.poll() is None:
            _terminate(process.pid)
            process.wait()
        groups.remove(process.pid)


@contextmanager
def _locked(lock: Path | None) -> Iterator[None]:
    """Wait for a lock and hold it; ``None`` is no lock."""
    if lock is None:
        yield
        return
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
