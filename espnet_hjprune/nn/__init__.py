"""The speech encoder of the wav2vec 2.0 family with per-layer sizes and optional gates."""

from espnet_hjprune.nn.config import (
    ConvLayerConfig,
    DropoutConfig,
    EncoderConfig,
    MaskingConfig,
    PositionalConfig,
    RelativeBiasConfig,
)
from espnet_hjprune.nn.encoder import SpeechEncoder
from espnet_hjprune.nn.gate_values import FeatureGate, GateValues

__all__ = [
    "ConvLayerConfig",
    "DropoutConfig",
    "EncoderConfig",
    "FeatureGate",
    "GateValues",
    "MaskingConfig",
    "PositionalConfig",
    "RelativeBiasConfig",
    "SpeechEncoder",
]
