"""Run an ESPnet command with the plugin registered: ``-m espnet2.bin.asr_train ...``.

``--python "python3 -m espnet_hjprune.bin.run"`` makes any ``asr.sh`` use the plugin.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import runpy
import sys
from collections.abc import Sequence
from types import ModuleType

from espnet_hjprune import plugin
from espnet_hjprune.bin.cli import run_command
from espnet_hjprune.errors import HJPruneError
from espnet_hjprune.lazy_imports import postpone_import

# Names the module to the processes that Lightning starts with the module's arguments only, and to
# those that ESPnet spawns for several GPUs.
MODULE_VARIABLE = "HJPRUNE_RUN_MODULE"
# ESPnet imports these at its start, for phonemes and for cleaning text. They take seconds, and
# g2p_en asks a server for its data.
SELDOM_NEEDED = ("g2p_en", "tacotron_cleaner.cleaners")

USAGE = "usage: python3 -m espnet_hjprune.bin.run (-m MODULE | SCRIPT) [arguments ...]"


def check_program(name: str) -> None:
    """Look for a module without executing it.

    Raises:
        HJPruneError: there is no such module.
    """
    try:
        found = importlib.util.find_spec(name) is not None
    except ModuleNotFoundError as error:
        if not error.name or not name.startswith(error.name):
            raise
        found = False
    if not found:
        raise HJPruneError(f"there is no module {name}")


def import_program(name: str) -> ModuleType:
    """Import a program, then register the plugin with the tasks that it has imported."""
    for module in SELDOM_NEEDED:
        postpone_import(module)
    plugin.unregister_hook()
    program = importlib.import_module(name)
    plugin.register(save_atomically=True)
    return program


def run_script(path: str) -> None:
    """Run a script that imports ESPnet itself."""
    for module in SELDOM_NEEDED:
        postpone_import(module)
    plugin.register(save_atomically=True)
    runpy.run_path(path, run_name="__main__")


def main(argv: Sequence[str] | None = None) -> None:
    """Run a module's ``main()``, or a script, with the remaining arguments."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments[:1] in (["-h"], ["--help"]):
        print((__doc__ or "").strip(), USAGE, sep="\n\n")
        return
    if arguments and arguments[0].startswith("--") and MODULE_VARIABLE in os.environ:
        arguments = ["-m", os.environ[MODULE_VARIABLE], *arguments]
    if not arguments or (arguments[0] == "-m" and len(arguments) < 2):
        raise HJPruneError(USAGE)
    if arguments[0] != "-m":
        sys.argv = arguments
        run_script(arguments[0])
        return
    name = arguments[1]
    check_program(name)
    sys.argv = [name, *arguments[2:]]
    os.environ[MODULE_VARIABLE] = name
    program = import_program(name)
    if hasattr(program, "main"):
        program.main()
    else:
        runpy.run_module(name, run_name="__main__", alter_sys=True)


if __name__ == "__mp_main__":
    # A process that ESPnet has spawned for one of several GPUs.
    if MODULE_VARIABLE in os.environ:
        import_program(os.environ[MODULE_VARIABLE])
    else:
        plugin.register(save_atomically=True)

if __name__ == "__main__":
    run_command(main)
