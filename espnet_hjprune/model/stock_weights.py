"""Weights of ESPnet's own ``s3prl`` frontend, read as those of ``hj_prune``.

A model that was fine-tuned with the stock frontend can so be given by ``--init_param`` and pruned
without training it again.
"""

from __future__ import annotations

from typing import Any

import torch

from espnet_hjprune.errors import HJPruneError
from espnet_hjprune.model.upstream import SpeechUpstream
from espnet_hjprune.upstream.fairseq_format import convert_weights
from espnet_hjprune.upstream.stock_frontend import read_stock_weights

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
        HJPruneError: the upstream is another one, or the stock frontend gave other features than
            the options of ``core`` give.
    """
    start = prefix + STOCK
    found = {
        name.removeprefix(start): state.pop(name) for name in list(state) if name.startswith(start)
    }
    layer_weights = state.pop(prefix + LAYER_WEIGHTS, None)
    if not found:
        return
    weights = read_stock_weights(found, core.config, core.layer)
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
    _translate_layer_weights(core, layer_weights, state, prefix)


def _translate_layer_weights(
    core: SpeechUpstream, weights: torch.Tensor | None, state: dict[str, Any], prefix: str
) -> None:
    """The weights of the sum over layers; the stock frontend always has some."""
    if core.layer_weights is not None:
        if weights is None or weights.shape != core.layer_weights.shape:
            raise HJPruneError(
                "the model of the s3prl frontend was not trained with multilayer_feature: true; "
                "remove it"
            )
        state[f"{prefix}core.layer_weights"] = weights
    elif weights is not None and weights.any():
        raise HJPruneError(
            "the model of the s3prl frontend was trained with multilayer_feature: true; set it"
        )
