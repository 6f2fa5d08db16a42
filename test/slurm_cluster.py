"""A Slurm cluster of one node, this machine, for as long as a test needs it."""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "scancel")
CONFIG = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller_port}
SlurmdPort={node_port}
AuthType=auth/munge
AuthInfo=socket={directory}/munge.socket
SlurmUser=root
StateSaveLocation={directory}/state
SlurmdSpoolDir={directory}/spool
SlurmctldPidFile={directory}/slurmctld.pid
SlurmdPidFile={directory}/slurmd.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerParameters=sched_interval=1,batch_sched_delay=0
MpiDefault=none
ReturnToService=2
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} State=UNKNOWN
PartitionName=main Nodes={host} Default=YES MaxTime=INFINITE State=UP
"""


@contextmanager
def slurm_cluster(directory: Path) -> Iterator[None]:
    """Start Slurm with all of its files in ``directory``; skip the test where it cannot start."""
    path = f"{os.environ['PATH']}:/usr/sbin"
    lacking = [program for program in PROGRAMS if shutil.which(program, path=path) is None]
    if lacking:
        pytest.skip(f"{', '.join(lacking)} are not installed (packages slurm-wlm and munge)")
    if os.geteuid() != 0:
        pytest.skip("Slurm's daemons start as root only")
    host = socket.gethostname().split(".")[0]
    for name in ("state", "spool"):
        (directory / name).mkdir()
    key = directory / "munge.key"
    key.write_bytes(secrets.token_bytes(128))
    key.chmod(0o400)
    with _free_port() as controller_port, _free_port() as node_port:
        ports = {"controller_port": controller_port, "node_port": node_port}
    text = CONFIG.format(host=host, directory=directory, cpus=os.cpu_count(), **ports)
    (directory / "slurm.conf").write_text(text)
    environment = os.environ | {"SLURM_CONF": str(directory / "slurm.conf"), "PATH": path}
    commands = [
        [
            "munged", "--foreground", "--force", f"--key-file={key}",
            f"--socket={directory}/munge.socket", f"--pid-file={directory}/munged.pid",
            f"--log-file={directory}/munged.log", f"--seed-file={directory}/munged.seed",
        ],
        ["slurmctld", "-D", "-c", "-f", str(directory / "slurm.conf")],
        ["slurmd", "-D", "-f", str(directory / "slurm.conf"), "-N", host],
    ]  # fmt: skip
    processes = []
    try:
        for command in commands:
            log = (directory / f"{command[0]}.output").open("w")
            processes.append(
                subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=environment)
            )
            time.sleep(1)
        _wait_until_idle(environment, directory)
        yield
    finally:
        subprocess.run(["scancel", "--me"], env=environment, capture_output=True)
        for process in reversed(processes):
            process.terminate()
        for process in processes:
            process.wait(timeout=30)


@contextmanager
def _free_port() -> Iterator[int]:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        yield found.getsockname()[1]


def _wait_until_idle(environment: dict[str, str], directory: Path) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        state = subprocess.run(
            ["sinfo", "-h", "-o", "%T"], env=environment, capture_output=True, text=True
        )
        if state.stdout.strip() == "idle":
            return
        time.sleep(0.5)
    said = "; ".join(
        f"{path.name}: {path.read_text().strip().splitlines()[-1:]}"
        for path in sorted(directory.glob("*.output"))
    )
    pytest.skip(f"Slurm's daemons do not start on this machine ({said})")
