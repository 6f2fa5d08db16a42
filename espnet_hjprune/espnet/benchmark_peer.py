"""ESPnet's own ``s3prl`` frontend, to compare with."""

from __future__ import annotations

import importlib
import tempfile
from pathlib import Path

from espnet2.asr.frontend.s3prl import S3prlFrontend
from torch import nn

from espnet_hjprune.nn.config import EncoderConfig
from espnet_hjprune.upstream.random_checkpoint import save_random_checkpoint

# The frontend imports it only when it is made.
importlib.import_module("s3prl.nn")


def stock_frontend(form: str, config: EncoderConfig) -> nn.Module:
    """The frontend in training mode, with random weights.

    Args:
        form: of the upstream, as s3prl calls it, such as ``wav2vec2``.
        config: its architecture.
    """
    with tempfile.TemporaryDirectory() as directory:
        checkpoint = Path(directory) / "upstream.pt"
        save_random_checkpoint(config, form, checkpoint)
        conf = {"upstream": f"{form}_local", "path_or_url": str(checkpoint)}
        return S3prlFrontend(frontend_conf=conf).train()
