"""A model as CUDA graphs, for kernels so small that launching them takes longer than they do."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

# Runs before a graph is captured, in which libraries choose their kernels.
WARM_UP = 2


@dataclass
class _Captured:
    """A graph, and the memory that it reads from and writes to."""

    graph: torch.cuda.CUDAGraph
    inputs: list[torch.Tensor]
    outputs: Any

    @property
    def bytes(self) -> int:
        """Memory of inputs and outputs; what is computed in between is shared by all graphs."""
        outputs = [self.outputs] if isinstance(self.outputs, torch.Tensor) else self.outputs
        return sum(tensor.nbytes for tensor in (*self.inputs, *outputs))


class CudaGraphs:
    """Runs a function of CUDA tensors by graphs, one for each combination of input shapes.

    The first call with new shapes captures a graph, which takes as long as some ordinary calls, so
    that shapes which occur once are better run without. What a call returns is overwritten by a
    later call. Inputs may still be on their way to the GPU.

    Graphs share the memory that they compute in, which grows to what the largest needs where that
    is captured first.

    Args:
        function: returns a tensor or a tuple of tensors; it must neither wait for the GPU nor
            depend on anything but its inputs and weights that stay where they are.
        limit: graphs that are kept; the one that was not used for longest goes first.
        memory: bytes of inputs and outputs that are kept, but those of the last graph in any case.
    """

    def __init__(
        self, function: Callable[..., Any], limit: int = 64, memory: int = 2 * 1024**3
    ) -> None:
        self.function = function
        self.limit = limit
        self.memory = memory
        self._captured: OrderedDict[tuple[Any, ...], _Captured] = OrderedDict()
        self._pool: Any = None
        self._stream: torch.cuda.Stream | None = None

    def __call__(self, *inputs: torch.Tensor) -> Any:
        """Run the function; gradients are not kept."""
        key = tuple((tensor.shape, tensor.dtype) for tensor in inputs)
        with torch.inference_mode():
            found = self._captured.get(key)
            if found is None:
                found = self._capture(inputs)
                self._captured[key] = found
                self._drop_unused()
            self._captured.move_to_end(key)
            for own, given in zip(found.inputs, inputs, strict=True):
                own.copy_(given)
            found.graph.replay()
        return found.outputs

    def _drop_unused(self) -> None:
        """Forget the graphs that were not used for longest, down to the limits."""
        used = sum(captured.bytes for captured in self._captured.values())
        while len(self._captured) > 1 and (len(self._captured) > self.limit or used > self.memory):
            used -= self._captured.popitem(last=False)[1].bytes

    def _capture(self, inputs: tuple[torch.Tensor, ...]) -> _Captured:
        own = [tensor.clone() for tensor in inputs]
        # One stream for all, as libraries keep a workspace for each that they have seen.
        self._stream = stream = self._stream or torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(WARM_UP):
                self.function(*own)
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        # Graphs run one after another, so that they can share what they compute in. Meanwhile other
        # threads may do with the GPU what they like, such as pinning memory.
        with torch.cuda.graph(graph, self._pool, stream, capture_error_mode="thread_local"):
            outputs = self.function(*own)
        self._pool = graph.pool()
        return _Captured(graph, own, outputs)
