"""The console script ``hjprune``: ``hjprune profile ...`` is ``espnet_hjprune.bin.profile``."""

from __future__ import annotations

import importlib
import os
import sys

from espnet_hjprune.bin.cli import run_command

COMMANDS = {
    "profile": "count MACs and parameters of an upstream or a model",
    "preview": "say what pruning a trained model will cost, before any training",
    "measure": "time encoders of many widths, for prunings whose target is latency",
    "run": "run an ESPnet command with the plugin",
    "compact": "remove the closed units of a model that was trained with gates",
    "decode": "decode a test set in batches",
    "export": "export a model to ONNX, torch.export or TorchScript",
    "bench": "time encoders side by side",
    "gpu_figures": "measure speed and memory on a GPU, all on one page",
    "compare": "say whether the difference of two decoded models means something",
    "constraint_dynamics": "prune a tiny model many times, to see where the constraint settles",
    "sweep": "prune by several methods to several targets, and compare",
}


def usage() -> str:
    """What the script can do."""
    width = max(map(len, COMMANDS))
    lines = [f"  {name:{width}}  {text}" for name, text in COMMANDS.items()]
    return "\n".join(["usage: hjprune COMMAND [options]", "", *lines, "", OPTIONS])


OPTIONS = "hjprune COMMAND --help lists the options of a command."


def main() -> None:
    """Run the command that the first argument names."""
    name, arguments = (sys.argv[1:2] or ["--help"])[0], sys.argv[2:]
    if name in ("-h", "--help"):
        print(usage())
        return
    if name not in COMMANDS:
        print(f"error: there is no command {name}; hjprune --help lists them", file=sys.stderr)
        sys.exit(2)
    if name == "run":
        # Processes that ESPnet spawns import the main module again, which must be this one.
        program = [sys.executable, "-m", "espnet_hjprune.bin.run"]
        os.execv(sys.executable, [*program, *arguments])
    sys.argv = [f"hjprune {name}", *arguments]
    run_command(importlib.import_module(f"espnet_hjprune.bin.{name}").main)


if __name__ == "__main__":
    main()
