"""Run an ESPnet command with the plugin registered: ``-m espnet2.bin.asr_train ...``.

``--python "python3 -m espnet_hjprune.bin.run"`` makes any ``asr.sh`` use the plugin.
"""

from __future__ import annotations

import importlib
import os
import runpy
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import espnet_hjprune
from espnet_hjprune.atomic import replaced_file
from espnet_hjprune.bin.cli import run_command
from espnet_hjprune.errors import HJPruneError
from espnet_hjprune.espnet.lazy_imports import import_lazily

# Processes that ESPnet spawns for several GPUs import this module again, which registers there.
espnet_hjprune.register()

# Names the module to the processes that Lightning starts with the module's arguments only.
MODULE_VARIABLE = "HJPRUNE_RUN_MODULE"

USAGE = "usage: python3 -m espnet_hjprune.bin.run (-m MODULE | SCRIPT) [arguments ...]"


def save_atomically() -> None:
    """Make ``torch.save`` write to a temporary name first.

    ESPnet overwrites ``checkpoint.pth`` in place; killed meanwhile, training could not resume.
    It also saves the epoch's model after the checkpoint; killed in between, the model would be
    missing when the best ones are averaged. So the model is saved before its checkpoint.
    """
    import torch

    save = torch.save

    def atomic_save(obj: Any, f: Any, *args: Any, **kwargs: Any) -> None:
        if not isinstance(f, str | os.PathLike):
            save(obj, f, *args, **kwargs)
            return
        path = Path(f)
        if path.name == "checkpoint.pth" and {"model", "reporter"} <= set(obj):
            atomic_save(obj["model"], path.with_name(f"{obj['reporter']['epoch']}epoch.pth"))
        with replaced_file(path) as partial:
            save(obj, partial, *args, **kwargs)

    torch.save = atomic_save


if __name__ == "__mp_main__":
    save_atomically()


def main(argv: Sequence[str] | None = None) -> None:
    """Run a module's ``main()``, or a script, with the remaining arguments."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments[:1] in (["-h"], ["--help"]):
        print(__doc__.strip(), USAGE, sep="\n\n")
        return
    if arguments and arguments[0].startswith("--") and MODULE_VARIABLE in os.environ:
        arguments = ["-m", os.environ[MODULE_VARIABLE], *arguments]
    if not arguments or (arguments[0] == "-m" and len(arguments) < 2):
        raise HJPruneError(USAGE)
    save_atomically()
    import_lazily()
    if arguments[0] != "-m":
        sys.argv = arguments
        runpy.run_path(arguments[0], run_name="__main__")
        return
    name = arguments[1]
    sys.argv = [name, *arguments[2:]]
    os.environ[MODULE_VARIABLE] = name
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name and name.startswith(error.name):
            raise HJPruneError(f"there is no module {name}") from error
        raise
    if hasattr(module, "main"):
        module.main()
    else:
        runpy.run_module(name, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    run_command(main)
