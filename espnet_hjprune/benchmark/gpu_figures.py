"""The figures of a GPU: groups of benchmarks, each in a process of its own, as one page."""

from __future__ import annotations

import json
import logging
import re
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from espnet_hjprune.benchmark.peers import INFERENCE_PEERS
from espnet_hjprune.benchmark.table import as_table

Result = dict[str, Any]
GROUPS = ("training", "memory", "inference")
NOTES = """\
Memory is what a run needs beyond weights and audio, but for rows through ESPnet, whose reserved
memory is all that the training took from the GPU, weights and optimiser included. The share of the
peak is two operations for each MAC, times three for a training step, against the rate of one large
matrix product. A row through ESPnet is the time of one batch, with its share of the optimiser's
step and of loading the data; "time / bare step" is against the row without ESPnet, gated or not.
"""


@dataclass(frozen=True)
class Sizes:
    """How large the benchmarks are.

    Attributes:
        device: ``cuda``, or ``cpu`` for a try; there are no CUDA graphs then, and trainings are in
            float32.
        upstream: architecture of most figures.
        large_upstream: of one about memory.
        peers: other packages that take part.
        modes: in which our models run, where the device and the group have them.
        max_seconds: cuts lengths of audio down.
        max_batch: cuts batches down.
        max_repeats: cuts the timed rounds down.
        recipe: trainings run through ESPnet too.
    """

    device: str
    upstream: str
    large_upstream: str
    peers: tuple[str, ...]
    modes: tuple[str, ...]
    max_seconds: float
    max_batch: int
    max_repeats: int
    recipe: bool = True

    def options(
        self, upstream: str, batches: Sequence[int], seconds: float, repeats: int
    ) -> list[str]:
        """Options of the benchmark about these sizes."""
        cut = sorted({min(batch, self.max_batch) for batch in batches})
        return [
            *("--device", self.device, "--upstream", upstream),
            *("--batch", *map(str, cut), "--seconds", f"{min(seconds, self.max_seconds):g}"),
            *("--repeats", str(min(repeats, self.max_repeats))),
        ]

    def modes_but(self, mode: str) -> list[str]:
        """The option with the modes but one that a group does not have; eager if none is left."""
        left = [m for m in self.modes if m != mode and (m, self.device) != ("graph", "cpu")]
        return ["--modes", *(left or ["eager"])]


@dataclass(frozen=True)
class Group:
    """A benchmark: its title, and the options of the command."""

    title: str
    options: tuple[str, ...]

    @property
    def command(self) -> str:
        """What a shell is told."""
        return shlex.join(["python3", "-m", "espnet_hjprune.bin.bench", *self.options])


def groups(sizes: Sizes, names: Sequence[str] = GROUPS) -> list[Group]:
    """The benchmarks of a page.

    Args:
        sizes: of models and audio.
        names: which of :data:`GROUPS`.
    """
    dtype = ("--dtype", "bfloat16" if sizes.device == "cuda" else "float32")
    training = ("--training", *dtype, "--peers")
    found = []
    if "training" in names:
        options = sizes.options(sizes.upstream, [16], 14.5, 7)
        peers = [peer for peer in sizes.peers if peer not in INFERENCE_PEERS]
        options += [*training, *peers, *sizes.modes_but("graph")]
        options += ["--recipe"] if sizes.recipe else []
        found.append(Group("Training", tuple(options)))
    if "memory" in names:
        for upstream, batch in ((sizes.upstream, 16), (sizes.large_upstream, 8)):
            options = sizes.options(upstream, [batch], 24.5, 3)
            found.append(Group(f"Memory of {upstream}", (*options, *training)))
    if "inference" in names:
        options = sizes.options(sizes.upstream, [1, 16], 10, 15)
        options += ["--half_weights", "--dtype", "bfloat16", "--targets", "0.4", "0.6"]
        options += ["--round_to", "32", "--peers", *sizes.peers, *sizes.modes_but("compile")]
        found.append(Group("Inference", tuple(options)))
    return found


def run_group(group: Group) -> Result | None:
    """Run a benchmark; ``None`` where it fails, of which it says the reason itself."""
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory) / "result.json"
        command = [sys.executable, "-m", "espnet_hjprune.bin.bench", *group.options]
        logging.info("%s: %s", group.title, group.command)
        ended = subprocess.run(
            [*command, "--json", str(file)], stdout=subprocess.DEVNULL, check=False
        )
        if ended.returncode != 0:
            logging.warning("%s is left out, as its benchmark failed", group.title)
            return None
        result: Result = json.loads(file.read_text(encoding="utf-8"))
    for row in result["rows"]:
        row["command"] = group.command
    return {"title": group.title, "command": group.command, **result}


def card_name(result: Result) -> str:
    """The name of the card as part of file names."""
    return re.sub(r"[^A-Za-z0-9.]+", "-", result["machine"]["device"]).strip("-")


def as_page(results: Sequence[Result]) -> str:
    """Markdown with the tables of all results, each under the command that made it."""
    machine = results[0]["machine"]
    driver = f", driver {machine['driver']}" if machine["driver"] else ""
    parts = [f"# {machine['device']}{driver}, torch {machine['torch']}", NOTES.rstrip()]
    for result in results:
        parts += [f"## {result['title']}", f"    {result['command']}", as_table(result).rstrip()]
    return "\n\n".join(parts) + "\n"
