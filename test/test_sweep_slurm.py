"""Sweeps on a real Slurm cluster of one node."""

import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from slurm_cluster import slurm_cluster
from test_sweep import CONFIG, calls, interrupt_while_waiting, recipe, run  # noqa: F401

from espnet_hjprune.errors import HJPruneError

SLURM = {
    "launcher": "slurm",
    "parallel": 2,
    "slurm": {"slurm_partition": "main", "timeout_min": 10, "cpus_per_task": 1},
}


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """The cluster; commands find it by SLURM_CONF."""
    directory = tmp_path_factory.mktemp("slurm")
    with slurm_cluster(directory), pytest.MonkeyPatch.context() as patch:
        patch.setenv("SLURM_CONF", str(directory / "slurm.conf"))
        yield


def numbers():
    """Numbers of the jobs that were submitted last, by point."""
    return {
        path.parent.name: json.loads(path.read_text())["number"]
        for path in Path("exp").glob("*/*/slurm_job")
    }


def test_points_are_an_array_and_failed_ones_are_repeated(cluster, recipe, monkeypatch):  # noqa: F811
    monkeypatch.setattr("espnet_hjprune.sweep.slurm.GRACE_SECONDS", 1.0)
    Path("sweep.yaml").write_text(yaml.safe_dump(CONFIG | SLURM))
    Path("fail").touch()
    with pytest.raises(HJPruneError, match=r"2 of 8 jobs failed: a-macs-0\.6, a-size-0\.6"):
        run()
    first = numbers()
    points = [number.split("_")[0] for name, number in first.items() if "prepare" not in name]
    assert len(points) == 8 and len(set(points)) == 1
    assert len(calls()) == 2 + 6 * 2 + 2
    Path("fail").unlink()
    run()
    assert len(calls()) == 1 + 2 * 2
    changed = {name for name, number in numbers().items() if number != first[name]}
    assert changed == {"a-prepare", "a-macs-0.6", "a-size-0.6"}
    run()
    assert calls() == []


def test_jobs_in_the_queue_are_followed_and_not_submitted_again(cluster, recipe):  # noqa: F811
    config = CONFIG | SLURM | {"grids": [{"methods": ["macs"], "targets": [0.4]}]}
    Path("sweep.yaml").write_text(yaml.safe_dump(config))
    script = Path("run.sh").read_text().replace("sleep 60", "while [ -e wait ]; do sleep 0.2; done")
    only_stage_4 = 'if [ -e wait ] && [ "${o[stage]}" = 4 ]; then'
    Path("run.sh").write_text(script.replace("if [ -e wait ]; then", only_stage_4))
    Path("wait").touch()
    command = [sys.executable, "-m", "espnet_hjprune.bin.sweep", "--config", "sweep.yaml"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE)
    interrupt_while_waiting(process, signal.SIGINT)
    before = numbers()
    Path("sweep.yaml").write_text(yaml.safe_dump(config | {"options": {"mini": True}}))
    with pytest.raises(HJPruneError, match=r"a-macs-0\.4 is in the queue with other options"):
        run()
    Path("sweep.yaml").write_text(yaml.safe_dump(config))
    Path("wait").unlink()
    run()
    assert {
        name: before[name] for name in ("a-macs-0.4", "b-macs-0.4")
    }.items() <= numbers().items()
    assert len([line for line in calls() if line.startswith("stage 4")]) == 2


def test_wrong_parameters_and_missing_programs_are_named(cluster, recipe, monkeypatch):  # noqa: F811
    for slurm, message in (
        ({"slurm_partition": "nowhere"}, "invalid partition specified: nowhere"),
        ({"no_such": 1}, "no_such"),
    ):
        Path("sweep.yaml").write_text(yaml.safe_dump(CONFIG | SLURM | {"slurm": slurm}))
        with pytest.raises(HJPruneError, match=message):
            run()
    monkeypatch.setenv("PATH", str(Path(shutil.which("python3")).parent))
    with pytest.raises(HJPruneError, match="needs the program sbatch"):
        run()
