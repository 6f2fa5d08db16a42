"""Weights of ESPnet's own ``s3prl`` frontend, read as those of ``hj_prune``.

A model that was fine-tuned with the stock frontend can so be given by ``--init_param`` and pruned
without training it again.
"""

from __future__ import annotations

from typing import Any

import torch

from espnet_hjprune.errors import HJPruneError
from espnet_hjprune.espnet.upstream_module import SpeechUpstream
from espnet_hjprune.upstream.fairseq_format import convert_weights
from espnet_hjprune.upstream.huggingface_source import fairseq_name

# Where the stock frontend holds the model of an upstream, below the frontend.
STOCK = "upstream.upstream.model."
LAYER_WEIGHTS = "featurizer.weights"


def translate_stock_weights(core: SpeechUpstream, state: dict[str, Any], prefix: str) -> None:
    """Replace the stock frontend's entries of a state by those of ``core``, in place.

    Args:
        core: the upstream that will be loaded; a dense one of the same architecture.
        state: a state dict that may have entries of the stock frontend.
        prefix: what stands before the frontend's entries, such as ``frontend.``.

    Raises:
        HJPruneError: the upstream is another one.
    """
    start = prefix + STOCK
    found = {
        name.removeprefix(start): state.pop(name) for name in list(state) if name.startswith(start)
    }
    layer_weights = state.pop(prefix + LAYER_WEIGHTS, None)
    if not found:
        return
    # Distillation wraps the model once more.
    weights = {name.removeprefix("model."): tensor for name, tensor in found.items()}
    if any(name.startswith("feature_projection.") for name in weights):
        norm = core.config.extractor_norm
        weights = {fairseq_name(name, norm): tensor for name, tensor in weights.items()}
    own = core.encoder.state_dict()
    try:
        converted = convert_weights(weights, core.config)
    except HJPruneError as error:
        raise HJPruneError(
            f"the weights of the s3prl frontend are not those of the upstream that is configured "
            f"({error}); name the same upstream"
        ) from error
    for name, tensor in converted.items():
        if tensor.shape != own[name].shape:
            raise HJPruneError(
                "the weights of the s3prl frontend are those of another upstream ("
                f"{name} has shape {tuple(tensor.shape)}, not {tuple(own[name].shape)}); name the "
                "same upstream"
            )
        state[f"{prefix}core.encoder.{name}"] = tensor
    if core.layer_weights is not None and isinstance(layer_weights, torch.Tensor):
        state[f"{prefix}core.layer_weights"] = layer_weights
