"""Decoding audio that is too long to be attended to at once, in overlapping windows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch.nn.utils.rnn import pad_sequence

from espnet_hjprune.constants import SAMPLE_RATE
from espnet_hjprune.errors import HJPruneError
from espnet_hjprune.inference.config import DecodeConfig
from espnet_hjprune.nn.config import EncoderConfig
from espnet_hjprune.nn.windows import Windows

# From a padded batch ``(batch, samples)`` and its lengths to what a model returns.
Runner = Callable[[torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]


@dataclass(frozen=True)
class FrameGrid:
    """Where the frames of an encoder are: one every ``step`` samples, each reads ``field``."""

    step: int
    field: int

    @classmethod
    def of(cls, config: EncoderConfig) -> FrameGrid:
        """The frames of an architecture."""
        return cls(config.downsampling, config.receptive_field)

    def frames(self, samples: int) -> int:
        """Frames of an utterance, at least one."""
        return max(0, samples - self.field) // self.step + 1

    def samples(self, frames: int) -> int:
        """Samples that so many frames read."""
        return (frames - 1) * self.step + self.field


def make_windows(options: DecodeConfig, grid: FrameGrid) -> Windows | None:
    """Windows of the options in frames; ``None`` where they say never."""
    if not options.window_seconds:
        return None
    size, overlap = (
        int(seconds * SAMPLE_RATE / grid.step)
        for seconds in (options.window_seconds, options.overlap_seconds)
    )
    size = max(2, size)
    return Windows(size, min(overlap, size - 1))


def longest_whole(windows: Windows | None, grid: FrameGrid) -> float:
    """Samples of the longest utterance that is one window."""
    return float("inf") if windows is None else grid.samples(windows.size + 1) - 1


def in_windows(run: Runner, windows: Windows | None, grid: FrameGrid) -> Runner:
    """Let a model that cannot be opened read long utterances window by window, each as a wave.

    Norms over time then cover a window, unlike in :class:`.Recogniser`, which is nearer to what the
    whole utterance gives. Batches without a long utterance are read as they are.

    Args:
        run: the model; its output has a number of frames that is a multiple of the grid's.
        windows: in frames; ``None`` for never.
        grid: the model's frames.

    Raises:
        HJPruneError: when the runner is called: a classifier, which reads the utterance at once.
    """
    if windows is None:
        return run
    limit = longest_whole(windows, grid)

    def read(wave: torch.Tensor, lengths: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        if int(lengths.max()) <= limit:
            return run(wave, lengths)
        rows = [
            _read_one(run, windows, grid, row[: int(n)])
            for row, n in zip(wave, lengths, strict=True)
        ]
        outputs, frames = zip(*rows, strict=True)
        return pad_sequence(list(outputs), batch_first=True), torch.stack(frames)

    return read


def _read_one(
    run: Runner, windows: Windows, grid: FrameGrid, wave: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Output ``(time, width)`` and number of frames of an utterance ``(samples,)``."""
    parts = []
    for window in windows.cover(grid.frames(len(wave))):
        samples = grid.samples(window.stop - window.start)
        part = wave[None, window.start * grid.step :][:, :samples]
        output, frames = run(part, torch.tensor([part.shape[1]]))
        if output.dim() < 3:
            raise HJPruneError(
                f"audio of {len(wave) / SAMPLE_RATE:.0f} s is too long for an exported classifier, "
                "which reads it at once; cut it, or decode by espnet_hjprune.bin.decode"
            )
        times = int(frames) // (window.stop - window.start)
        parts.append(output[0, window.kept.start * times : window.kept.stop * times])
    whole = torch.cat(parts)
    return whole, torch.tensor(len(whole))
