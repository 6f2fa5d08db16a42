"""Architecture and training options of the speech encoder, as serialisable dataclasses."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from espnet_hjprune.errors import HJPruneError
from espnet_hjprune.options import build_dataclass


def _check_probabilities(options: Any, names: tuple[str, ...], option: str) -> None:
    for name in names:
        if not 0 <= getattr(options, name) < 1:
            raise HJPruneError(
                f"{option}.{name} is {getattr(options, name)}; it must lie between 0 and 1"
            )


@dataclass(frozen=True)
class ConvLayerConfig:
    """One layer of the CNN front end; ``kernel`` and ``stride`` in input frames."""

    channels: int
    kernel: int
    stride: int


@dataclass(frozen=True)
class PositionalConfig:
    """The grouped convolution that encodes positions.

    ``group_widths`` lists the channels of every group; they sum to the hidden size. Groups
    become uneven when the hidden size is pruned. ``weight_norm`` keeps the weight as
    direction and gain per kernel position, as in most published checkpoints. ``depth``
    convolutions follow one another, each with a norm when there are several (data2vec).
    """

    kernel: int
    group_widths: list[int]
    weight_norm: bool = True
    depth: int = 1


@dataclass(frozen=True)
class RelativeBiasConfig:
    """The relative position bias on attention scores (WavLM).

    One table of ``buckets`` rows and ``heads`` columns serves all layers. With ``gated``, every
    layer scales the bias by gates that each head computes from its share of the input features.

    Attributes:
        buckets: distances that are told apart.
        max_distance: frames from which all distances are one bucket.
        heads: heads of the dense model.
        head_dim: features of the dense model that belong to one head's gates.
        gated: whether the bias is gated.
        columns: of every layer the columns that its heads use; ``None`` for all in order.
    """

    buckets: int
    max_distance: int
    heads: int
    head_dim: int
    gated: bool = True
    columns: list[list[int]] | None = None

    def layer_columns(self, layer: int, heads: int) -> list[int]:
        """Columns of the table that the heads of a layer use."""
        return list(range(heads)) if self.columns is None else self.columns[layer]


@dataclass(frozen=True)
class EncoderConfig:
    """Sizes of an encoder of the wav2vec 2.0 family, layer by layer.

    Attributes:
        conv_layers: the CNN front end.
        hidden_size: width of the Transformer.
        head_dim: width of one attention head.
        heads: attention heads of every Transformer layer; 0 leaves the output bias.
        ffn_sizes: intermediate FFN units of every layer; 0 leaves the output bias.
        positional: the positional convolution.
        extractor_norm: ``group`` (GroupNorm in the first layer) or ``layer`` (LayerNorm in all).
        conv_bias: whether CNN layers have a bias.
        norm_first: pre-norm Transformer layers and a final norm.
        normalize_input: scale every utterance to zero mean and unit variance.
        normalize_epsilon: what is added to the variance then.
        length_rule: how samples become valid frames: ``conv`` follows the kernels
            (wav2vec 2.0), ``chunk`` divides the padded batch evenly (HuBERT).
        activation: FFN activation, ``gelu`` or ``relu``.
        projection_norm: whether frames are normalised before the projection (not in
            DistilHuBERT).
        relative: the relative position bias; ``None`` for none.
        hidden_features: place of every hidden feature in the dense model; ``None`` for all in
            order.
        first_state: what the first of the states is: the input of the first Transformer layer
            (``embedded``), or the projected frames before the positional embedding
            (``projected``, LightHuBERT).
        normalize_states: normalise every state that readers get over its features.
        output_width: width that readers see; ``None`` for ``hidden_size``.
        output_positions: where the hidden features stand within ``output_width``; the other
            positions are zero.
    """

    conv_layers: list[ConvLayerConfig]
    hidden_size: int
    head_dim: int
    heads: list[int]
    ffn_sizes: list[int]
    positional: PositionalConfig
    extractor_norm: Literal["group", "layer"] = "group"
    conv_bias: bool = False
    norm_first: bool = False
    normalize_input: bool = False
    length_rule: Literal["conv", "chunk"] = "conv"
    activation: Literal["gelu", "relu"] = "gelu"
    projection_norm: bool = True
    relative: RelativeBiasConfig | None = None
    hidden_features: list[int] | None = None
    normalize_epsilon: float = 1e-5
    first_state: Literal["embedded", "projected"] = "embedded"
    normalize_states: bool = False
    output_width: int | None = None
    output_positions: list[int] | None = None

    def __post_init__(self) -> None:
        """Check that the sizes fit together."""
        if len(self.heads) != len(self.ffn_sizes):
            raise HJPruneError(
                f"the architecture lists heads for {len(self.heads)} layers but FFN sizes for "
                f"{len(self.ffn_sizes)}; give one of each per Transformer layer"
            )
        if sum(self.positional.group_widths) != self.hidden_size:
            raise HJPruneError(
                f"positional.group_widths sum to {sum(self.positional.group_widths)}, which is "
                f"not hidden_size {self.hidden_size}"
            )
        if self.relative is not None and self.relative.columns is not None:
            columns = [len(layer) for layer in self.relative.columns]
            if columns != self.heads:
                raise HJPruneError(
                    f"relative.columns has {columns} entries, not {self.heads}, the layers' heads"
                )
        if len(self.dense_features) != self.hidden_size:
            raise HJPruneError(
                f"hidden_features has {len(self.dense_features)} entries, not {self.hidden_size}, "
                "the hidden size"
            )
        if min([layer.channels for layer in self.conv_layers] + [self.hidden_size]) < 1:
            raise HJPruneError("every CNN layer and the hidden size need at least one unit")

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> EncoderConfig:
        """Build from what :meth:`to_dict` returned.

        Raises:
            HJPruneError: an unknown or missing key.
        """
        values = dict(values)
        try:
            values["conv_layers"] = [
                build_dataclass(ConvLayerConfig, layer, "architecture.conv_layers")
                for layer in values["conv_layers"]
            ]
            values["positional"] = build_dataclass(
                PositionalConfig, values["positional"], "architecture.positional"
            )
            if values.get("relative") is not None:
                values["relative"] = build_dataclass(
                    RelativeBiasConfig, values["relative"], "architecture.relative"
                )
            return build_dataclass(cls, values, "architecture")
        except (KeyError, TypeError) as error:
            raise HJPruneError(f"the architecture is incomplete: {error}") from error

    def to_dict(self) -> dict[str, Any]:
        """Plain lists, numbers and strings, fit for YAML and JSON."""
        return asdict(self)

    @property
    def dense_features(self) -> list[int]:
        """Place of every hidden feature in the dense model."""
        own = range(self.hidden_size)
        return list(own if self.hidden_features is None else self.hidden_features)

    @property
    def output_size(self) -> int:
        """Width of the features that readers get."""
        return self.hidden_size if self.output_width is None else self.output_width

    @property
    def downsampling(self) -> int:
        """Samples per output frame."""
        rate = 1
        for layer in self.conv_layers:
            rate *= layer.stride
        return rate

    def conv_lengths(self, samples: int) -> list[int]:
        """Frames after every CNN layer for ``samples`` input samples (0 when too short)."""
        lengths = []
        for layer in self.conv_layers:
            samples = max(0, (samples - layer.kernel) // layer.stride + 1)
            lengths.append(samples)
        return lengths

    @property
    def receptive_field(self) -> int:
        """Samples that the first output frame needs."""
        samples = 1
        for layer in reversed(self.conv_layers):
            samples = (samples - 1) * layer.stride + layer.kernel
        return samples


@dataclass(frozen=True)
class DropoutConfig:
    """Dropout probabilities while training.

    ``input`` acts after the projection, ``hidden`` on every residual branch, ``attention`` on
    attention weights and ``activation`` inside the FFN.
    """

    input: float = 0.0
    hidden: float = 0.1
    attention: float = 0.1
    activation: float = 0.0

    def __post_init__(self) -> None:
        """Check the ranges."""
        _check_probabilities(self, ("input", "hidden", "attention", "activation"), "dropout")


@dataclass(frozen=True)
class MaskingConfig:
    """Span masking of the projected features while training (wav2vec 2.0 fine-tuning).

    A probability is the expected share of frames (or features) that span starts would cover
    without overlap; a length is in frames (or features). 0 switches a kind off.
    """

    time_prob: float = 0.0
    time_length: int = 10
    channel_prob: float = 0.0
    channel_length: int = 64
    min_time_spans: int = 2

    def __post_init__(self) -> None:
        """Check the ranges."""
        _check_probabilities(self, ("time_prob", "channel_prob"), "masking")
        for name in ("time_length", "channel_length"):
            if getattr(self, name) < 1:
                raise HJPruneError(f"masking.{name} is {getattr(self, name)}; it must be positive")
