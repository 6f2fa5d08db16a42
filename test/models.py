"""Small encoders and random gates that several tests share."""

from dataclasses import replace

import numpy as np
import torch

from espnet_hjprune.nn.config import ConvLayerConfig, EncoderConfig, PositionalConfig
from espnet_hjprune.nn.encoder import SpeechEncoder
from espnet_hjprune.pruning.config import PruningConfig
from espnet_hjprune.pruning.cost import config_counts
from espnet_hjprune.pruning.latency import LatencyTable, features, signature
from espnet_hjprune.pruning.optimizer import attach
from espnet_hjprune.pruning.pruner import Pruner
from espnet_hjprune.upstream.families import FAMILIES as REGISTERED
from espnet_hjprune.upstream.families import FORMS
from espnet_hjprune.upstream.huggingface_form import HuggingFaceForm


def small_config(style: str = "base", hidden: int = 64) -> EncoderConfig:
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
        conv_bias=large,
        norm_first=large,
        normalize_input=large,
    )


# Every form of every family, and WavLM without gates on its position bias.
FAMILIES = [*FORMS, "ungated"]


def family_config(family: str, style: str = "base") -> EncoderConfig:
    """A small model with what is special about a family."""
    form = FORMS["wavlm" if family == "ungated" else family]
    (adapt,) = [owner.adapt for owner in REGISTERED if form in owner.forms]
    config = adapt(small_config(style))
    if config.relative is not None:
        # So few buckets that all of them occur.
        gated = family != "ungated"
        relative = replace(config.relative, buckets=32, max_distance=40, gated=gated)
        config = replace(config, relative=relative)
    if config.positional.depth > 1:
        config = replace(config, positional=replace(config.positional, kernel=5, depth=3))
    if isinstance(form, HuggingFaceForm):
        config = replace(config, length_rule="conv")
    return config


def random_encoder(config: EncoderConfig, seed: int = 0) -> SpeechEncoder:
    """An encoder whose norms and biases are not at their initial values either."""
    torch.manual_seed(seed)
    encoder = SpeechEncoder(config).eval()
    with torch.no_grad():
        for parameter in encoder.parameters():
            if parameter.dim() == 1:
                parameter.add_(0.2 * torch.randn_like(parameter))
    return encoder


def family_encoder(family: str, style: str = "base", seed: int = 0) -> SpeechEncoder:
    """A random encoder with what is special about a family, of three layers."""
    config = family_config(family, style)
    config = replace(config, heads=config.heads[:3], ffn_sizes=config.ffn_sizes[:3])
    return random_encoder(config, seed)


def random_pruner(config: EncoderConfig, seed: int = 0, spread: float = 3.0, **options) -> Pruner:
    """A pruner past its ramp, with random gates."""
    pruner = Pruner(config, PruningConfig(ramp_steps=0, **options)).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        pruner.gates.log_alpha.copy_(
            spread * torch.randn(pruner.gates.log_alpha.shape, generator=generator)
        )
    return pruner


def latency_table(config: EncoderConfig, seed: int = 0, step: int = 1) -> LatencyTable:
    """A table with random coefficients, of an encoder that takes about a second."""
    random = np.random.default_rng(seed)
    found = {
        module: [random.uniform(0.1, 1) / max(float(count), 1) for count in rows[0]]
        for module, rows in features(config_counts(config)).items()
    }
    return LatencyTable(
        signature(config), "cpu", "float32", 1, 10.0, 1, step, found, machine={}, check={}
    )


def padded_batch(lengths: list[int], seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Noise of the given lengths in samples, zero-padded."""
    generator = torch.Generator().manual_seed(seed)
    waves = [torch.randn(n, generator=generator) * 0.1 for n in lengths]
    return torch.nn.utils.rnn.pad_sequence(waves, batch_first=True), torch.tensor(lengths)


def settle(pruner: Pruner, sparsity: float | None = None) -> Pruner:
    """Shift all gates until a single constraint's expected sparsity is this, or the target."""
    goal = pruner.measures[0].target if sparsity is None else sparsity
    start = pruner.gates.log_alpha.detach().clone()
    low, high = -40.0, 40.0
    with torch.no_grad():
        for _ in range(60):
            middle = (low + high) / 2
            pruner.gates.log_alpha.copy_(start + middle)
            low, high = (middle, high) if pruner.expected_sparsity()[0] > goal else (low, middle)
    return pruner


def attached(pruner: Pruner) -> Pruner:
    """The pruner in training, with an optimiser."""
    attach(pruner, torch.optim.AdamW(pruner.parameters()))
    return pruner.train()
