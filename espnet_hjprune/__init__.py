"""Structured pruning of self-supervised speech models for ESPnet.

Importing this package registers ``hj_prune`` with ESPnet's tasks.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from espnet_hjprune.espnet.import_hook import register

if TYPE_CHECKING:
    from espnet_hjprune.nn.encoder import SpeechEncoder

__version__ = "0.1.0"

register()


def load(model_dir: str | Path) -> SpeechEncoder:
    """Load the encoder of a compact model without ESPnet, s3prl or the original checkpoint.

    Args:
        model_dir: directory with ``config.yaml`` and ``model.pth``.

    Returns:
        The encoder in evaluation mode: ``encoder(wave, lengths)`` takes ``(batch, samples)`` at
        16 kHz and returns its states, each ``(batch, time, width)``, and the valid frames.

    Raises:
        HJPruneError: a file is missing or is not of a compact model.
    """
    from espnet_hjprune.model.model_dir import load_encoder

    return load_encoder(model_dir)


__all__ = ["__version__", "load", "register"]
