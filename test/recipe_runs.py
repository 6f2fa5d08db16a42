"""Running a copy of a recipe, so that the checkout stays as it is."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class RecipeCopy:
    """A recipe's directory, and options that every run of it gets."""

    directory: Path
    settings: tuple[str, ...]

    def start(self, *arguments: str) -> subprocess.Popen:
        """Start the recipe in a process group of its own."""
        return subprocess.Popen(
            ["./run.sh", *self.settings, *arguments],
            cwd=self.directory,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def run(self, *arguments: str) -> str:
        """Run the recipe to its end and return what it printed."""
        process = self.start(*arguments)
        output, _ = process.communicate(timeout=900)
        assert process.returncode == 0, output[-4000:]
        return output

    def run_module(self, module: str, *arguments: str) -> None:
        """Run a command of the package in the recipe's directory."""
        command = [sys.executable, "-m", module, *arguments]
        result = subprocess.run(command, cwd=self.directory, capture_output=True, text=True)
        assert result.returncode == 0, result.stderr[-4000:]

    def fail(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run what is expected to fail."""
        result = subprocess.run(
            ["./run.sh", *self.settings, *arguments],
            cwd=self.directory,
            capture_output=True,
            text=True,
            env=os.environ | environment,
        )
        assert result.returncode != 0
        return result

    def only(self, pattern: str) -> Path:
        """The one path that fits a pattern."""
        (path,) = self.directory.glob(pattern)
        return path

    def kill_in_training(self, stage: int, exp_pattern: str) -> None:
        """Kill the recipe with signal 9 once a stage's training has saved its first epoch."""
        process = self.start("--stage", str(stage), "--stop_stage", str(stage))
        deadline = time.monotonic() + 300
        while time.monotonic() < deadline:
            if list(self.directory.glob(f"{exp_pattern}/checkpoint.pth")):
                break
            assert process.poll() is None, process.stdout.read()[-4000:]
            time.sleep(0.1)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        process.stdout.close()
        assert not list(self.directory.glob(f"{exp_pattern}/.done"))


def copy_recipe(root: Path, name: str, *settings: str) -> RecipeCopy:
    """Copy ``egs2/<name>`` with what it needs into ``root``."""
    ignore = shutil.ignore_patterns("data", "dump", "exp", "downloads")
    shutil.copytree(ROOT / "egs2", root / "egs2", symlinks=True, ignore=ignore)
    shutil.copytree(ROOT / "utils", root / "utils")
    (root / "tools").symlink_to(ROOT / "tools")
    return RecipeCopy(root / "egs2" / name, settings)


def read_text(path: Path) -> dict[str, str]:
    """Read ``utterance words`` lines."""
    rows = (line.partition(" ") for line in path.read_text(encoding="utf-8").splitlines())
    return {key: text.strip() for key, _, text in rows}


def sclite_error_rate(result: Path) -> float:
    """The error rate that sclite printed, in percent."""
    (total,) = (line for line in result.read_text().splitlines() if "Sum/Avg" in line)
    return float(total.replace("|", " ").split()[-2])


def copy_local(directory: Path, name: str, settings: str) -> Path:
    """Copy ``local`` of ``egs2/<name>`` with what its data.sh sources; ``settings`` is db.sh."""
    shutil.copytree(ROOT / "egs2" / name / "local", directory / "local")
    (directory / "utils").symlink_to(ROOT / "utils")
    interpreter = Path(sys.executable).parent
    (directory / "path.sh").write_text(f'PATH="{interpreter}:$PATH"\nexport PYTHONPATH="{ROOT}"\n')
    (directory / "db.sh").write_text(settings)
    return directory


def data_sh(directory: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """Run local/data.sh."""
    command = ["bash", "local/data.sh", *options]
    return subprocess.run(command, cwd=directory, capture_output=True, text=True, check=False)
