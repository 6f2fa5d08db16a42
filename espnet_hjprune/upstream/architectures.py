"""Published architectures by name, for counting and for random models."""

from __future__ import annotations

from collections.abc import Callable

from espnet_hjprune.errors import HJPruneError
from espnet_hjprune.nn.config import ConvLayerConfig, EncoderConfig, PositionalConfig

KERNELS = (10, 3, 3, 3, 3, 2, 2)
STRIDES = (5, 2, 2, 2, 2, 2, 2)


def _wav2vec2(
    channels: int,
    hidden: int,
    layers: int,
    ffn: int,
    heads: int,
    *,
    large: bool = False,
    hubert: bool = False,
    conv_bias: bool = False,
    positional_kernel: int = 128,
    positional_groups: int = 16,
) -> EncoderConfig:
    """Seven CNN layers and a uniform Transformer; ``large`` has LayerNorms and pre-norm."""
    return EncoderConfig(
        conv_layers=[
            ConvLayerConfig(channels, k, s) for k, s in zip(KERNELS, STRIDES, strict=True)
        ],
        hidden_size=hidden,
        head_dim=hidden // heads,
        heads=[heads] * layers,
        ffn_sizes=[ffn] * layers,
        positional=PositionalConfig(
            positional_kernel, [hidden // positional_groups] * positional_groups
        ),
        extractor_norm="layer" if large else "group",
        conv_bias=conv_bias,
        norm_first=large,
        normalize_input=large,
        length_rule="chunk" if hubert else "conv",
    )


ARCHITECTURES: dict[str, Callable[[], EncoderConfig]] = {
    "wav2vec2_base": lambda: _wav2vec2(512, 768, 12, 3072, 12),
    "wav2vec2_large": lambda: _wav2vec2(512, 1024, 24, 4096, 16, large=True, conv_bias=True),
    "xls_r_300m": lambda: _wav2vec2(512, 1024, 24, 4096, 16, large=True, conv_bias=True),
    "xls_r_1b": lambda: _wav2vec2(512, 1280, 48, 5120, 16, large=True, conv_bias=True),
    "hubert_base": lambda: _wav2vec2(512, 768, 12, 3072, 12, hubert=True),
    "hubert_large": lambda: _wav2vec2(512, 1024, 24, 4096, 16, large=True, hubert=True),
    "hubert_xlarge": lambda: _wav2vec2(512, 1280, 48, 5120, 16, large=True, hubert=True),
    "wav2vec2_mini": lambda: _wav2vec2(64, 128, 4, 512, 4, positional_kernel=32),
    "hubert_mini": lambda: _wav2vec2(64, 128, 4, 512, 4, hubert=True, positional_kernel=32),
}


def architecture(name: str) -> EncoderConfig:
    """Return the configuration of a named architecture.

    Raises:
        HJPruneError: an unknown name, with the known ones.
    """
    if name not in ARCHITECTURES:
        raise HJPruneError(
            f"no architecture is called {name}; known are {', '.join(ARCHITECTURES)}, and any "
            "other s3prl upstream needs its checkpoint (--ckpt)"
        )
    return ARCHITECTURES[name]()
