"""Reading an upstream: from its name and checkpoint to our configuration and weights."""

from __future__ import annotations

import logging
from dataclasses import replace

import torch

from espnet_hjprune.errors import HJPruneError
from espnet_hjprune.nn.config import EncoderConfig
from espnet_hjprune.upstream.fairseq_format import convert_weights
from espnet_hjprune.upstream.form import ReadOptions
from espnet_hjprune.upstream.names import find_form


def read_upstream(
    name: str, path_or_url: str | None = None, options: ReadOptions | None = None
) -> tuple[EncoderConfig, dict[str, torch.Tensor]]:
    """Read an upstream's architecture and weights.

    Args:
        name: an s3prl upstream name, for example ``wav2vec2_base_960`` or ``wav2vec2_local``.
        path_or_url: its checkpoint, for the ``_local``, ``_url`` and ``_custom`` names; a
            directory or a hub name for the ``hf_`` names.
        options: how the checkpoint is read; ``None`` for the defaults.

    Returns:
        The configuration of a dense :class:`SpeechEncoder` and the state that it loads.

    Raises:
        HJPruneError: an unknown or unsupported upstream, a missing checkpoint, or one of
            another kind or that holds more than data.

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
    options = options or ReadOptions()
    config, weights = form.load(name, path_or_url, options)
    config = override_normalization(config, options.normalize_input, path_or_url or name)
    if "post_extract_proj.weight" not in weights:
        logging.info(
            "The upstream's CNN is as wide as its Transformer; adding an identity projection"
        )
    if "mask_emb" not in weights:
        logging.info(
            "%s has no mask embedding; it is zero, and trained where time is masked",
            path_or_url or name,
        )
    return config, convert_weights(weights, config)


def override_normalization(
    config: EncoderConfig, normalize_input: bool | None, source: str
) -> EncoderConfig:
    """The configuration with what the option ``normalize_input`` says, if it is given.

    Args:
        config: as it was read.
        normalize_input: the option; ``None`` if it is not given.
        source: where the configuration is from, for the warning if it says the contrary.
    """
    if normalize_input is None or config.normalize_input == normalize_input:
        return config
    logging.warning(
        "%s says that audio is %s, but normalize_input: %s says the contrary, which counts",
        source,
        "normalised" if config.normalize_input else "not normalised",
        str(normalize_input).lower(),
    )
    return replace(config, normalize_input=normalize_input)
