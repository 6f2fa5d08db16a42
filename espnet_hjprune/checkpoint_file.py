"""Files that ``torch.save`` has written, read as data.

A pickle can execute anything when it is loaded. Tensors and plain Python values need nothing but
torch's restricted unpickler (``weights_only=True``), and neither do the few classes allowed here.
"""

from __future__ import annotations

import argparse
import logging
import pickle
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from espnet_hjprune.errors import HJPruneError

# The function that makes numpy's scalars again; numpy 2 has moved its module.
_SCALAR = np.float64(0).__reduce__()[0]
# What is made without executing anything of the file: its options, and its figures.
_HARMLESS: list[Callable[..., Any] | tuple[Callable[..., Any], str]] = [
    argparse.Namespace,
    np.dtype,
    *(type(np.dtype(kind)) for kind in ("bool", "int32", "int64", "float32", "float64")),
    (_SCALAR, "numpy.core.multiarray.scalar"),
    (_SCALAR, "numpy._core.multiarray.scalar"),
]
# How torch names what a file needs beyond that.
_NEEDED = re.compile(r"GLOBAL ([\w.]+) (?:was not|whose module)")


class UnsafeCheckpointError(HJPruneError):
    """A file that holds more than data.

    Attributes:
        needs: the class or function that it would call, such as ``posix.system``.
    """

    def __init__(self, path: str | Path, needs: str, remedy: str) -> None:
        super().__init__(
            f"{path} holds more than weights and plain options: loading it would run {needs}, and "
            f"so whatever its author wants; {remedy}"
        )
        self.needs = needs


def read_checkpoint(path: str | Path, remedy: str, trust: bool = False, mmap: bool = False) -> Any:
    """Read what ``torch.save`` has written, to the CPU, without executing anything of it.

    Args:
        path: the file, which must be there.
        remedy: what the user can do about a file that holds more than data, for the message.
        trust: load such a file all the same, as Python's pickle does.
        mmap: leave tensors in the file until they are used; nobody must write it meanwhile.

    Raises:
        UnsafeCheckpointError: the file holds more than data.
        ValueError: it is damaged, or torch has not written it.

    Example:
        >>> state = read_checkpoint("model.pth", "save the weights alone")
    """
    mmap = mmap and zipfile.is_zipfile(path)
    try:
        with torch.serialization.safe_globals(_HARMLESS):
            return torch.load(path, "cpu", weights_only=True, mmap=mmap)
    except Exception as error:
        if not trust:
            raise _explained(error, path, remedy) from error
    logging.warning("%s is trusted: what it holds beyond data is executed", path)
    return torch.load(path, "cpu", weights_only=False, mmap=mmap)


def needed_beyond_data(error: Exception) -> str | None:
    """What a file that torch refused would call; ``None`` where that was not the reason."""
    found = _NEEDED.search(str(error))
    return None if found is None else found[1]


def _explained(error: Exception, path: str | Path, remedy: str) -> Exception:
    """What torch's error means, whose own message is about options of torch."""
    needs = needed_beyond_data(error)
    if needs is not None:
        return UnsafeCheckpointError(path, needs, remedy)
    text = str(error)
    if isinstance(error, pickle.UnpicklingError) or not text:
        return ValueError("it is damaged, or not written by torch.save")
    return ValueError(" ".join(text.split())[:200])
