"""Ways to run a model: eager, as CUDA graphs, or compiled."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import torch

# The modes, and what each adds to a model's name.
MODES = {"eager": "", "graph": ", CUDA graph", "compile": ", compiled"}
# Sizes of layers and audio that torch compiles one piece of code for, before it silently gives up.
COMPILED_SIZES = 1000


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile a function or module, for every size of its inputs anew."""
    import torch._dynamo.config as settings

    settings.recompile_limit = settings.accumulated_recompile_limit = COMPILED_SIZES
    return torch.compile(function, dynamic=False)


def runs_at_all(name: str, run: Callable[[], object]) -> bool:
    """Try a model of another package in a mode that it was not made for.

    Args:
        name: of the model; where it does not run, a warning says so.
        run: runs it.
    """
    try:
        run()
    except Exception as error:
        # Compilers and captures fail in whatever way the model's code makes them.
        logging.warning("%s is left out, as it does not run: %s", name, reason(error))
        return False
    return True


def never_waits(run: Callable[[], object]) -> None:
    """Make sure that a graph can be captured of a run on a GPU.

    A capture that breaks off would leave torch's allocator in it.

    Raises:
        RuntimeError: it waits for the GPU.
    """
    run()
    torch.cuda.set_sync_debug_mode("error")
    try:
        run()
    finally:
        torch.cuda.set_sync_debug_mode("default")


def reason(error: BaseException) -> str:
    """An error in one line: its type and the first line of its message."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
