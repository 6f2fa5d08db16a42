"""Reading an upstream: from its name and checkpoint to our configuration and weights."""

from __future__ import annotations

import logging

import torch

from espnet_hjprune.errors import HJPruneError
from espnet_hjprune.nn.config import EncoderConfig
from espnet_hjprune.upstream.fairseq_format import convert_weights
from espnet_hjprune.upstream.names import find_form


def read_upstream(
    name: str, path_or_url: str | None = None, download_dir: str | None = None
) -> tuple[EncoderConfig, dict[str, torch.Tensor]]:
    """Read an upstream's architecture and weights.

    Args:
        name: an s3prl upstream name, for example ``wav2vec2_base_960`` or ``wav2vec2_local``.
        path_or_url: its checkpoint, for the ``_local``, ``_url`` and ``_custom`` names; a
            directory or a hub name for the ``hf_`` names.
        download_dir: where downloads are kept.

    Returns:
        The configuration of a dense :class:`SpeechEncoder` and the state that it loads.

    Raises:
        HJPruneError: an unknown or unsupported upstream, a missing checkpoint, or one of
            another kind.

    Example:
        >>> config, state = read_upstream("hubert_local", "hubert.pt")
        >>> encoder = SpeechEncoder(config)
        >>> encoder.load_state_dict(state)
    """
    form = find_form(name)
    needs_path = form.needs_path(name)
    if needs_path and not path_or_url:
        raise HJPruneError(f"the upstream {name} needs a checkpoint; give its path or URL")
    if path_or_url and not needs_path:
        raise HJPruneError(
            f"the upstream {name} brings its own checkpoint; to use {path_or_url} name the "
            f"upstream {form.key}_local"
        )
    config, weights = form.load(name, path_or_url, download_dir)
    if "post_extract_proj.weight" not in weights:
        logging.info(
            "The upstream's CNN is as wide as its Transformer; adding an identity projection"
        )
    return config, convert_weights(weights, config)
