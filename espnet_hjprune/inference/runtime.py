"""Running exported models."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from espnet_hjprune.errors import HJPruneError

# From a padded batch ``(batch, samples)`` and its lengths to what the model returns.
Runner = Callable[[torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]


def load_exported(path: str | Path, threads: int | None = None) -> Runner:
    """Load an exported model by the suffix of its file.

    Args:
        path: a file that ``espnet_hjprune.bin.export`` wrote.
        threads: of ONNX Runtime; torch's number by default.

    Raises:
        HJPruneError: another suffix, or ONNX Runtime is missing.
    """
    path = Path(path)
    if path.suffix == ".onnx":
        return _onnx(path, threads or torch.get_num_threads())
    if path.suffix == ".pt2":
        return torch.export.load(path).module()
    if path.suffix == ".pt":
        return torch.jit.load(str(path))
    raise HJPruneError(f"{path} is no exported model; they end in .onnx, .pt2 or .pt")


def _onnx(path: Path, threads: int) -> Runner:
    try:
        import onnxruntime
    except ImportError as error:
        raise HJPruneError(f"{path} needs the package onnxruntime; install it") from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    def run(wave: torch.Tensor, lengths: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        found = session.run(None, {"wave": wave.numpy(), "lengths": lengths.numpy()})
        return torch.from_numpy(found[0]), torch.from_numpy(found[1])

    return run
