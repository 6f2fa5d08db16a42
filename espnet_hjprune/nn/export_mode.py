"""How the encoder computes while a graph of it is made for another runtime."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch

_plain = ContextVar("plain", default=False)


def is_exporting() -> bool:
    """True within ``torch.export`` and ``torch.jit.trace``: sizes of the audio are unknown."""
    return torch.jit.is_tracing() or torch.compiler.is_exporting()


@contextmanager
def plain_attention() -> Iterator[None]:
    """Make the attention of products and a softmax, for runtimes without a fused one."""
    token = _plain.set(True)
    try:
        yield
    finally:
        _plain.reset(token)


def has_plain_attention() -> bool:
    """True within :func:`plain_attention`; never for ``torch.compile``, which cannot ask."""
    return not torch.compiler.is_dynamo_compiling() and _plain.get()
