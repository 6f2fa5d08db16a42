"""The architecture that a command's options name."""

from __future__ import annotations

from pathlib import Path

from espnet_hjprune.errors import HJPruneError
from espnet_hjprune.model.espnet_config import read_architecture
from espnet_hjprune.model.model_dir import read_encoder
from espnet_hjprune.model.upstream_options import OWN_NAME
from espnet_hjprune.nn.config import EncoderConfig
from espnet_hjprune.upstream import ARCHITECTURES, architecture, read_upstream


def find_architecture(
    upstream: str | None = None, ckpt: str | None = None, model_dir: str | None = None
) -> EncoderConfig:
    """The architecture of an upstream or of a model.

    Args:
        upstream: a named architecture, or an upstream of s3prl.
        ckpt: its checkpoint.
        model_dir: an ESPnet model directory instead.

    Raises:
        HJPruneError: none or two are named, or the named one does not exist.
    """
    if bool(upstream) == bool(model_dir):
        raise HJPruneError("give either --upstream or --model_dir")
    if model_dir:
        return read_architecture(Path(model_dir) / "config.yaml")
    assert upstream
    if upstream == OWN_NAME:
        return read_encoder(ckpt)[0]
    if ckpt:
        return read_upstream(upstream, ckpt)[0]
    if upstream not in ARCHITECTURES:
        # An upstream of s3prl that brings its own checkpoint.
        return read_upstream(upstream)[0]
    return architecture(upstream)
