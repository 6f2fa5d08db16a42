"""Small encoders and random gates that several tests share."""

from dataclasses import replace

import torch

from espnet_hjprune.nn import (
    ConvLayerConfig,
    EncoderConfig,
    PositionalConfig,
    RelativeBiasConfig,
    SpeechEncoder,
)
from espnet_hjprune.pruning import Pruner, PruningConfig, attach


def small_config(style: str = "base", hubert: bool = False, hidden: int = 64) -> EncoderConfig:
    """A small model in the style of the base or the large models."""
    large = style == "large"
    return EncoderConfig(
        conv_layers=[ConvLayerConfig(32, 10, 5)]
        + [ConvLayerConfig(32, 3, 2)] * 4
        + [ConvLayerConfig(32, 2, 2)] * 2,
        hidden_size=hidden,
        head_dim=16,
        heads=[hidden // 16] * 3,
        ffn_sizes=[96] * 3,
        positional=PositionalConfig(16, [hidden // 4] * 4),
        extractor_norm="layer" if large else "group",
        conv_bias=large and not hubert,
        norm_first=large,
        normalize_input=large,
        length_rule="chunk" if hubert else "conv",
    )


def family_config(family: str, style: str = "base") -> EncoderConfig:
    """A small model with what is special about a family."""
    chunk = family in ("hubert", "wavlm", "ungated", "unispeech_sat")
    config = small_config(style, family in ("hubert", "hf_hubert"))
    config = replace(config, length_rule="chunk" if chunk else "conv")
    if family in ("wavlm", "hf_wavlm", "ungated"):
        # So few buckets that all of them occur.
        relative = RelativeBiasConfig(32, 40, 4, 16, gated=family != "ungated")
        return replace(config, relative=relative)
    if family == "data2vec":
        positional = PositionalConfig(5, [16] * 4, weight_norm=False, depth=3)
        return replace(config, positional=positional, extractor_norm="layer")
    if family == "distiller":
        return replace(config, projection_norm=False, normalize_input=False, conv_bias=False)
    return config


FAMILIES = [
    "wav2vec2",
    "hubert",
    "wavlm",
    "ungated",
    "unispeech_sat",
    "data2vec",
    "distiller",
    "hf_wav2vec2",
    "hf_hubert",
    "hf_wavlm",
]


def random_encoder(config: EncoderConfig, seed: int = 0) -> SpeechEncoder:
    """An encoder whose norms and biases are not at their initial values either."""
    torch.manual_seed(seed)
    encoder = SpeechEncoder(config).eval()
    with torch.no_grad():
        for parameter in encoder.parameters():
            if parameter.dim() == 1:
                parameter.add_(0.2 * torch.randn_like(parameter))
    return encoder


def random_pruner(config: EncoderConfig, seed: int = 0, spread: float = 3.0, **options) -> Pruner:
    """A pruner past its ramp, with random gates."""
    pruner = Pruner(config, PruningConfig(ramp_steps=0, **options)).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        pruner.gates.log_alpha.copy_(
            spread * torch.randn(pruner.gates.log_alpha.shape, generator=generator)
        )
    return pruner


def padded_batch(lengths: list[int], seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Noise of the given lengths in samples, zero-padded."""
    generator = torch.Generator().manual_seed(seed)
    waves = [torch.randn(n, generator=generator) * 0.1 for n in lengths]
    return torch.nn.utils.rnn.pad_sequence(waves, batch_first=True), torch.tensor(lengths)


def attached(pruner: Pruner) -> Pruner:
    """The pruner in training, with an optimiser."""
    attach(pruner, torch.optim.AdamW(pruner.parameters()))
    return pruner.train()
