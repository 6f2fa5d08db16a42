"""Elementwise formulas as one kernel each, on GPUs.

Step by step, such a formula reads and writes all of its activations several times, which is what
takes the time. ``TORCH_COMPILE_DISABLE=1``, torch's own switch, leaves it at that.
"""

from __future__ import annotations

import functools
import importlib.util
import logging
import os
import shutil
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import torch

from espnet_hjprune.errors import HJPruneError

# Compute capability of the oldest GPUs that Triton makes kernels for.
OLDEST_OF_TRITON = (7, 0)

P = ParamSpec("P")
R = TypeVar("R")


def fused(function: Callable[P, R]) -> Callable[P, R]:
    """Compile a function of tensors when it is first called with some on a GPU.

    Its arguments are positional, the first is a tensor. Sizes may change from call to call. Where
    autograd watches, or the compiler fails, which a warning says, the function runs step by step.
    """
    compiled: Any = None

    @functools.wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        nonlocal compiled
        x = args[0]
        watched = torch.compiler.is_compiling() or torch.is_grad_enabled()
        if watched or not isinstance(x, torch.Tensor) or not x.is_cuda:
            return function(*args, **kwargs)
        if compiled is None:
            compiled = torch.compile(function, dynamic=True) if can_compile() else function
        try:
            # Parameters themselves would be compiled for one width each.
            plain = [a.detach() if isinstance(a, torch.nn.Parameter) else a for a in args]
            result: R = compiled(*plain, **kwargs)
        except torch._dynamo.exc.TorchDynamoException as error:
            reason = str(error).strip().partition("\n")[0]
            logging.warning("%s is not compiled, so it takes longer: %s", function.__name__, reason)
            compiled = function
            return function(*args, **kwargs)
        return result

    return run


def check_compiler() -> None:
    """Make sure that ``torch.compile`` has what it needs.

    Raises:
        HJPruneError: there is no C compiler, or no Triton where there is a GPU.
    """
    if not has_c_compiler() or (torch.cuda.is_available() and not can_compile()):
        raise HJPruneError(
            "compile: true needs a C compiler and, on a GPU, the package triton; install them, or "
            "set compile: false"
        )


@functools.cache
def can_compile() -> bool:
    """Whether torch can make kernels for the GPU, for which it needs Triton and a C compiler."""
    if importlib.util.find_spec("triton") is None or not has_c_compiler():
        return False
    return torch.cuda.get_device_capability() >= OLDEST_OF_TRITON


def has_c_compiler() -> bool:
    """Whether one is there, or named by ``CC``."""
    names = [os.environ.get("CC", ""), "cc", "gcc", "clang"]
    return any(shutil.which(name) for name in names if name)
