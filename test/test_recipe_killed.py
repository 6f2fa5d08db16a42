"""A recipe that is killed at any moment ends, when it is run again, with the same files.

It takes half an hour and is not among the tests that run by default: ``make test-killed``.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path
from random import Random

import pytest
import torch
from recipe_runs import RecipeCopy, copy_recipe

pytestmark = pytest.mark.slow

KILLS = 20
MINI = (
    "--num_train 16 --num_dev_clean 2 --num_dev_other 2 --num_test_clean 4 --num_test_other 2 "
    "--num_test_tedlium 2 --nj 2"
)
SETTINGS = [
    "--mini", "true", "--mini_opts", MINI, "--test_sets", "test_clean", "--inference_nj", "2",
    "--ramp_epochs", "1",
    "--allow_off_target", "true",
    "--train_args", "--max_epoch 2 --num_workers 0",
    "--prune_args", "--max_epoch 3 --num_workers 0",
    "--compact_args", "--max_epoch 2 --num_workers 0",
]  # fmt: skip
# What differs between two undisturbed runs: times, and the logs and stamps that hold them.
DIFFER = (
    "*.log", "*.log.*", ".done", ".options", "timing.json", "RESULTS.md", "events.out.tfevents.*",
    "result.txt", "*.png", "checkpoint.pth", "reporter*", "sys", "steps.json",
)  # fmt: skip
TIMES = ("seconds", "real_time", "date")


def copy(directory: Path) -> RecipeCopy:
    """A fresh copy of the recipe."""
    return copy_recipe(directory, "librispeech_100/asr1", *SETTINGS)


def content(path: Path, root: Path) -> str:
    """A digest of a file, or of the tensors in it."""
    digest = hashlib.sha256()
    if path.suffix in (".pth", ".pt"):
        state = torch.load(path, map_location="cpu", weights_only=False)
        state = state.get("model_weight", state)
        for name, tensor in state.items():
            digest.update(f"{name} {tuple(tensor.shape)} ".encode())
            digest.update(tensor.contiguous().numpy().tobytes())
    elif path.name == "results.json":
        digest.update(json.dumps(timeless(json.loads(path.read_text("utf-8")))).encode())
    else:
        digest.update(path.read_bytes().replace(str(root).encode(), b""))
    return digest.hexdigest()


def timeless(value: object) -> object:
    """Figures without those that were timed."""
    if isinstance(value, dict):
        return {
            name: timeless(inner)
            for name, inner in value.items()
            if not any(word in name for word in TIMES)
        }
    return [timeless(inner) for inner in value] if isinstance(value, list) else value


def files(recipe: RecipeCopy) -> dict[str, str]:
    """All files that a recipe made, with their digests."""
    root = recipe.directory
    found = {}
    for part in ("data", "dump", "downloads", "exp"):
        for path in sorted((root / part).rglob("*")):
            name = path.relative_to(root)
            skipped = any(name.match(pattern) for pattern in DIFFER) or "logdir" in name.parts
            if path.is_file() and not skipped and "att_ws" not in name.parts:
                found[str(name)] = content(path, root)
    return found


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> tuple[dict[str, str], float]:
    """The files of a run that nothing disturbed, and its seconds."""
    recipe = copy(tmp_path_factory.mktemp("undisturbed"))
    begin = time.monotonic()
    recipe.run()
    seconds = time.monotonic() - begin
    return files(recipe), seconds


@pytest.mark.parametrize("kill", range(KILLS))
def test_kill_and_rerun(undisturbed, kill, tmp_path):
    expected, seconds = undisturbed
    # Spread over the whole run, at a random place within each share of it.
    moment = seconds * (kill + Random(kill).random()) / KILLS
    recipe = copy(tmp_path)
    # What the killed run prints has nowhere to go: its jobs hold the pipe's other end.
    with (tmp_path / "killed.log").open("w") as log:
        process = subprocess.Popen(
            ["./run.sh", *recipe.settings],
            cwd=recipe.directory,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        try:
            process.wait(timeout=moment)
        except subprocess.TimeoutExpired:
            # Once the script alone, as a user does, and once with what it waits for, as a machine
            # that runs out of memory; its jobs are in groups of their own and go on in both cases.
            if kill % 2:
                os.killpg(process.pid, signal.SIGKILL)
            else:
                process.kill()
            process.wait()
    reached = (tmp_path / "killed.log").read_text().strip().split("\n")[-1]
    recipe.run()
    made = files(recipe)
    different = {name for name in made.keys() | expected if made.get(name) != expected.get(name)}
    assert not different, f"killed after {moment:.1f} s at '{reached}': {sorted(different)}"
    left = [str(path) for path in recipe.directory.rglob("*.running")]
    assert not left
    shutil.rmtree(tmp_path)
