"""Published architectures by name, for counting and for random models."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from espnet_hjprune.errors import HJPruneError
from espnet_hjprune.nn.config import (
    ConvLayerConfig,
    EncoderConfig,
    PositionalConfig,
    RelativeBiasConfig,
)

KERNELS = (10, 3, 3, 3, 3, 2, 2)
STRIDES = (5, 2, 2, 2, 2, 2, 2)


def _encoder(
    channels: int,
    hidden: int,
    layers: int,
    ffn: int,
    heads: int,
    *,
    large: bool = False,
    conv_bias: bool = False,
    positional_kernel: int = 128,
    **options: Any,
) -> EncoderConfig:
    """Seven CNN layers and a uniform Transformer; ``large`` has LayerNorms and pre-norm."""
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
        conv_bias=conv_bias,
        norm_first=large,
        normalize_input=large,
    )
    return replace(config, **options)


def _base(**options: Any) -> EncoderConfig:
    return _encoder(512, 768, 12, 3072, 12, **options)


def _large(**options: Any) -> EncoderConfig:
    return _encoder(512, 1024, 24, 4096, 16, large=True, **options)


def _xlarge(**options: Any) -> EncoderConfig:
    return _encoder(512, 1280, 48, 5120, 16, large=True, **options)


def _mini(**options: Any) -> EncoderConfig:
    return _encoder(64, 128, 4, 512, 4, positional_kernel=32, **options)


def _wavlm(config: EncoderConfig) -> EncoderConfig:
    """Add the relative position bias of the published models."""
    relative = RelativeBiasConfig(320, 800, config.heads[0], config.head_dim)
    return replace(config, relative=relative, length_rule="chunk")


def _data2vec(config: EncoderConfig) -> EncoderConfig:
    """Five positional convolutions, LayerNorms in the CNN, post-norm layers."""
    positional = replace(config.positional, kernel=19, weight_norm=False, depth=5)
    return replace(
        config,
        positional=positional,
        extractor_norm="layer",
        norm_first=False,
        normalize_input=True,
    )


CHUNK: dict[str, Any] = {"length_rule": "chunk"}
ARCHITECTURES: dict[str, Callable[[], EncoderConfig]] = {
    "wav2vec2_base": _base,
    "wav2vec2_large": lambda: _large(conv_bias=True),
    "xls_r_300m": lambda: _large(conv_bias=True),
    "xls_r_1b": lambda: _xlarge(conv_bias=True),
    "hubert_base": lambda: _base(**CHUNK),
    "hubert_large": lambda: _large(**CHUNK),
    "hubert_xlarge": lambda: _xlarge(**CHUNK),
    "wavlm_base": lambda: _wavlm(_base()),
    "wavlm_base_plus": lambda: _wavlm(_base()),
    "wavlm_large": lambda: _wavlm(_large()),
    "unispeech_sat_base": lambda: _base(**CHUNK),
    "unispeech_sat_base_plus": lambda: _base(**CHUNK),
    "unispeech_sat_large": lambda: _large(**CHUNK),
    "data2vec_base": lambda: _data2vec(_base()),
    "data2vec_large": lambda: _data2vec(_large()),
    "distilhubert": lambda: replace(_encoder(512, 768, 2, 3072, 12), projection_norm=False),
    "wav2vec2_mini": _mini,
    "hubert_mini": lambda: _mini(**CHUNK),
    "wavlm_mini": lambda: _wavlm(_mini()),
    "data2vec_mini": lambda: _data2vec(_mini()),
}


def architecture(name: str) -> EncoderConfig:
    """Return the configuration of a named architecture.

    Raises:
        HJPruneError: an unknown name, with the known ones.
    """
    if name not in ARCHITECTURES:
        raise HJPruneError(
            f"no architecture is called {name}; known are {', '.join(ARCHITECTURES)}"
        )
    return ARCHITECTURES[name]()
