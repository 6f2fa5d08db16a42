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


class CudaGraphs:
    """Runs a function of CUDA tensors by graphs, one for each combination of input shapes.

    The first call with new shapes captures a graph, which takes as long as some ordinary calls.
    What a call returns is overwritten by the next call.

    Args:
        function: returns a tensor or a tuple of tensors; it must neither wait for the GPU nor
            depend on anything but its inputs and weights that stay where they are.
        limit: graphs that are kept; the one that was not used for longest goes first.
    """

    def __init__(self, function: Callable[..., Any], limit: int = 32) -> None:
        self.function = function
        self.limit = limit
        self._captured: OrderedDict[tuple[Any, ...], _Captured] = OrderedDict()
        self._pool: Any = None

    def __call__(self, *inputs: torch.Tensor) -> Any:
        """Run the function; gradients are not kept."""
        key = tuple((tensor.shape, tensor.dtype) for tensor in inputs)
        with torch.inference_mode():
            found = self._captured.get(key)
            if found is None:
                found = self._capture(inputs)
                self._captured[key] = found
                if len(self._captured) > self.limit:
                    self._captured.popitem(last=False)
            self._captured.move_to_end(key)
            for own, given in zip(found.inputs, inputs, strict=True):
                own.copy_(given)
            found.graph.replay()
        return found.outputs

    def _capture(self, inputs: tuple[torch.Tensor, ...]) -> _Captured:
        own = [tensor.clone() for tensor in inputs]
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(WARM_UP):
                self.function(*own)
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        # Graphs run one after another, so that they can share what they compute in.
        with torch.cuda.graph(graph, pool=self._pool):
            outputs = self.function(*own)
        self._pool = graph.pool()
        return _Captured(graph, own, outputs)
