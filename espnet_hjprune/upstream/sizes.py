"""Sizes that published models share."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from espnet_hjprune.nn.config import ConvLayerConfig, EncoderConfig, PositionalConfig

KERNELS = (10, 3, 3, 3, 3, 2, 2)
STRIDES = (5, 2, 2, 2, 2, 2, 2)


def sized(
    channels: int,
    hidden: int,
    layers: int,
    ffn: int,
    heads: int,
    *,
    large: bool = False,
    positional_kernel: int = 128,
    **options: Any,
) -> EncoderConfig:
    """A wav2vec 2.0 of seven CNN layers and a uniform Transformer.

    Args:
        channels: of every CNN layer.
        hidden: width of the Transformer.
        layers: Transformer layers.
        ffn: FFN units of each.
        heads: attention heads of each.
        large: LayerNorms in the CNN, pre-norm layers and normalised audio, as in large models.
        positional_kernel: of the positional convolution, which has 16 groups.
        options: other fields of :class:`EncoderConfig`.
    """
    groups = 16
    config = EncoderConfig(
        conv_layers=[
            ConvLayerConfig(channels, k, s) for k, s in zip(KERNELS, STRIDES, strict=True)
        ],
        hidden_size=hidden,
        head_dim=hidden // heads,
        heads=[heads] * layers,
        ffn_sizes=[ffn] * layers,
        positional=PositionalConfig(positional_kernel, [hidden // groups] * groups),
        extractor_norm="layer" if large else "group",
        norm_first=large,
        normalize_input=large,
    )
    return replace(config, **options)


def base(**options: Any) -> EncoderConfig:
    """The size of wav2vec2-base."""
    return sized(512, 768, 12, 3072, 12, **options)


def large(**options: Any) -> EncoderConfig:
    """The size of wav2vec2-large."""
    return sized(512, 1024, 24, 4096, 16, large=True, **options)


def xlarge(**options: Any) -> EncoderConfig:
    """The size of XLS-R with a thousand million parameters."""
    return sized(512, 1280, 48, 5120, 16, large=True, **options)


def mini(**options: Any) -> EncoderConfig:
    """The size of the recipes' mini corpora, for a minute of training on a CPU."""
    return sized(64, 128, 4, 512, 4, positional_kernel=32, **options)
