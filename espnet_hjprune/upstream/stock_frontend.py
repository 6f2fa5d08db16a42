"""Weights that ESPnet's own ``s3prl`` frontend keeps of an upstream, under fairseq's names."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from espnet_hjprune.nn.config import EncoderConfig
from espnet_hjprune.upstream.families import FAMILIES
from espnet_hjprune.upstream.huggingface_form import fairseq_name


def read_stock_weights(
    weights: Mapping[str, torch.Tensor], config: EncoderConfig, layer: int
) -> Mapping[str, torch.Tensor]:
    """Translate the weights of the model inside s3prl's upstream.

    The family need not be known: each takes what it knows to be its own.

    Args:
        weights: by their names below that model.
        config: the dense configuration that they must fit.
        layer: number of the state that is read, -1 for the last.

    Returns:
        The weights as ``fairseq_format.convert_weights`` takes them.

    Raises:
        HJPruneError: the frontend gave features that our encoder does not have.
    """
    for family in FAMILIES:
        if family.read_stock is not None:
            weights = family.read_stock(weights, config, layer)
    if any(name.startswith("feature_projection.") for name in weights):
        norm = config.extractor_norm
        weights = {fairseq_name(name, norm): tensor for name, tensor in weights.items()}
    return weights
