"""Running exported models."""

from __future__ import annotations

import json
from pathlib import Path

import torch
import torch.nn.functional as F
from torch.nn.utils.rnn import pad_sequence

from espnet_hjprune.errors import HJPruneError
from espnet_hjprune.inference.config import DecodeConfig
from espnet_hjprune.inference.windows import FrameGrid, Runner, in_windows, make_windows


def load_exported(
    path: str | Path,
    threads: int | None = None,
    grid: FrameGrid | None = None,
    options: DecodeConfig | None = None,
) -> Runner:
    """Load an exported model by the suffix of its file.

    Batches that are too short for its graph are padded with zeros, on which the output of an
    utterance does not depend. Long utterances are read in windows, see :func:`.in_windows`.

    Args:
        path: a file that ``espnet_hjprune.bin.export`` wrote.
        threads: of ONNX Runtime; torch's number by default.
        grid: the model's frames; by default what ``export.json`` beside it says. Without one the
            graph gets all audio as it is.
        options: ``window_seconds`` and ``overlap_seconds``; ``None`` for the defaults.

    Raises:
        HJPruneError: another suffix, or ONNX Runtime is missing.
    """
    path = Path(path)
    report = path.with_name("export.json")
    if grid is None and report.is_file():
        known = json.loads(report.read_text(encoding="utf-8"))
        grid = FrameGrid(**known["frame_grid"]) if "frame_grid" in known else None
    if path.suffix == ".onnx":
        run = _onnx(path, threads or torch.get_num_threads(), grid)
    elif path.suffix == ".pt2":
        run = torch.export.load(path).module()
    elif path.suffix == ".pt":
        run = torch.jit.load(str(path))
    else:
        raise HJPruneError(f"{path} is no exported model; they end in .onnx, .pt2 or .pt")
    if grid is None:
        return run
    return in_windows(
        _padding(run, grid.samples(2)), make_windows(options or DecodeConfig(), grid), grid
    )


def _padding(run: Runner, shortest: int) -> Runner:
    """A runner of batches of any length by one that needs so many samples."""

    def padded(wave: torch.Tensor, lengths: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        missing = shortest - wave.shape[1]
        if missing <= 0:
            return run(wave, lengths)
        output, frames = run(F.pad(wave, (0, missing)), lengths)
        # What a classifier returns has no time.
        return output[:, : int(frames.max())] if output.dim() == 3 else output, frames

    return padded


def _onnx(path: Path, threads: int, grid: FrameGrid | None) -> Runner:
    try:
        import onnxruntime
    except ImportError as error:
        raise HJPruneError(f"{path} needs the package onnxruntime; install it") from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    names = [given.name for given in session.get_inputs()]

    def run(wave: torch.Tensor, lengths: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        given = dict(zip(names, (wave.numpy(), lengths.numpy()), strict=False))
        output, *frames = map(torch.from_numpy, session.run(None, given))
        if frames:
            return output, frames[0]
        # Of graphs whose runtime counts the frames itself.
        if grid is None:
            raise HJPruneError(f"{path} needs the export.json that was written beside it")
        counts = torch.tensor([grid.frames(n) for n in lengths.tolist()])
        return output, counts * (output.shape[1] // grid.frames(wave.shape[1]))

    def run_alone(wave: torch.Tensor, lengths: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        shortest = grid.samples(2) if grid is not None else 0
        rows = [
            run(row[None, : max(int(n), shortest)], n[None])
            for row, n in zip(wave, lengths, strict=True)
        ]
        outputs = [output[0] for output, _ in rows]
        return pad_sequence(outputs, batch_first=True), torch.cat([frames for _, frames in rows])

    # A graph made for sherpa-onnx is not told where utterances end.
    return run_alone if len(names) == 1 else run
