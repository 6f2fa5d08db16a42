"""Elementwise formulas as one kernel each, on GPUs.

Step by step, such a formula reads and writes all of its activations several times, which is what
takes the time. ``TORCH_COMPILE_DISABLE=1``, torch's own switch, leaves it at that.
"""

from __future__ import annotations

import functools
import importlib.util
import os
import shutil
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import torch

P = ParamSpec("P")
R = TypeVar("R")


def fused(function: Callable[P, R]) -> Callable[P, R]:
    """Compile a function of tensors when it is first called with some on a GPU.

    Its arguments are positional, the first is a tensor. Sizes may change from call to call.
    """
    compiled: Any = None

    @functools.wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        nonlocal compiled
        x = args[0]
        if torch.compiler.is_compiling() or not isinstance(x, torch.Tensor) or not x.is_cuda:
            return function(*args, **kwargs)
        if compiled is None:
            compiled = torch.compile(function, dynamic=True) if can_compile() else function
        result: R = compiled(*args, **kwargs)
        return result

    return run


@functools.cache
def can_compile() -> bool:
    """Whether torch can make GPU kernels here, for which it needs Triton and a C compiler."""
    compilers = [os.environ.get("CC", ""), "cc", "gcc", "clang"]
    has_compiler = any(shutil.which(name) for name in compilers if name)
    return has_compiler and importlib.util.find_spec("triton") is not None
