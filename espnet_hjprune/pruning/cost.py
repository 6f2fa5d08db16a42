"""MACs and parameters of an encoder as a function of how many units it keeps.

One set of formulas serves counting (whole numbers) and the constraint (symbols, see
:mod:`~espnet_hjprune.pruning.quadratic`): T frames, d hidden size, h heads of d_h, m FFN units,
C channels, K kernel,

- conv layer ``T_out C_out C_in K``, projection ``T C d``,
- every positional conv ``T_pos K sum over groups of (in x out)``,
- attention ``4 T h d d_h + 2 T^2 h d_h`` (paper Eq. 10), FFN ``2 T d m`` (Eq. 11),
- gates of a relative position bias ``2 T h d``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from espnet_hjprune.nn.config import EncoderConfig
from espnet_hjprune.nn.relative import SUMMANDS
from espnet_hjprune.target import Part

BIAS_GATE_OUTPUTS = 2 * SUMMANDS
# A whole number, an expected one as a tensor, or a polynomial.
Count = Any


@dataclass
class UnitCounts:
    """Kept units of an encoder.

    Attributes:
        conv: channels of every CNN layer.
        head: heads of every Transformer layer.
        ffn: FFN units of every layer.
        hidden: hidden size.
        positional_pairs: input-output pairs of the positional conv, the sum of squared group
            widths.
        attention_layer: for every layer 1, or 0 where its attention is closed.
        ffn_layer: for every layer 1, or 0 where its FFN is closed.
    """

    conv: Sequence[Count]
    head: Sequence[Count]
    ffn: Sequence[Count]
    hidden: Count
    positional_pairs: Count
    attention_layer: Sequence[Count]
    ffn_layer: Sequence[Count]


@dataclass
class ModuleCost:
    """Cost of one module: ``macs`` for one utterance, ``params`` in numbers."""

    name: str
    part: Part
    macs: Count
    params: Count


def config_counts(config: EncoderConfig) -> UnitCounts:
    """Units that an encoder of this configuration has."""
    return UnitCounts(
        conv=[layer.channels for layer in config.conv_layers],
        head=list(config.heads),
        ffn=list(config.ffn_sizes),
        hidden=config.hidden_size,
        positional_pairs=sum(width * width for width in config.positional.group_widths),
        attention_layer=[int(heads > 0) for heads in config.heads],
        ffn_layer=[int(size > 0) for size in config.ffn_sizes],
    )


def module_costs(config: EncoderConfig, counts: UnitCounts, samples: int) -> list[ModuleCost]:
    """Cost of every module.

    Args:
        config: everything that pruning leaves alone (kernels, head width, norms, biases).
        counts: kept units.
        samples: audio length in samples.
    """
    costs = []
    below: Count = 1
    lengths = config.conv_lengths(samples)
    for index, (layer, frames, channels) in enumerate(
        zip(config.conv_layers, lengths, counts.conv, strict=True)
    ):
        has_norm = config.extractor_norm == "layer" or index == 0
        extras = 2 * has_norm + config.conv_bias
        weights = layer.kernel * below * channels
        params = weights + extras * channels
        costs.append(
            ModuleCost(f"feature_extractor.layers.{index}", "cnn", frames * weights, params)
        )
        below = channels
    frames = lengths[-1]
    d = counts.hidden

    def add(name: str, macs: Count, params: Count) -> None:
        costs.append(ModuleCost(name, "transformer", macs, params))

    add(
        "feature_projection",
        frames * below * d,
        2 * config.projection_norm * below + below * d + d,
    )
    kernel, depth = config.positional.kernel, config.positional.depth
    position_frames = frames + 1 - kernel % 2
    gain = kernel if config.positional.weight_norm else 0
    pairs = depth * kernel * counts.positional_pairs
    add(
        "positional_embedding",
        position_frames * pairs,
        pairs + depth * d + depth * gain,
    )
    add("mask_embedding", 0, d)
    add("transformer.norm", 0, 2 * d)
    width = config.head_dim
    relative = config.relative
    if relative is not None:
        add("transformer.relative", 0, relative.buckets * relative.heads)
    for index, (heads, units) in enumerate(zip(counts.head, counts.ffn, strict=True)):
        inner = width * heads
        macs = 4 * frames * inner * d + 2 * frames * frames * inner
        params = 4 * inner * d + 3 * inner + 3 * d
        if relative is not None and relative.gated:
            macs = macs + 2 * frames * heads * d
            params = params + BIAS_GATE_OUTPUTS * (relative.head_dim + 1) + heads
        add(f"transformer.layers.{index}.attention", macs, params)
        pairs = 2 * units * d
        add(
            f"transformer.layers.{index}.ffn",
            frames * pairs,
            pairs + units + 3 * d,
        )
    return costs


def encoder_cost(
    config: EncoderConfig,
    counts: UnitCounts,
    kind: Literal["macs", "params"],
    samples: int,
    part: Part | None = None,
) -> Count:
    """Total MACs or parameters of an encoder, or of its CNN or Transformer ``part``."""
    return sum(
        getattr(cost, kind)
        for cost in module_costs(config, counts, samples)
        if part is None or cost.part == part
    )


def macs_and_params(
    config: EncoderConfig, counts: UnitCounts | None, samples: int
) -> dict[str, int]:
    """``macs`` for so many samples and ``params``, whole numbers.

    Args:
        config: the architecture.
        counts: units of every layer; ``None`` for those of the architecture.
        samples: length of the audio.
    """
    units = config_counts(config) if counts is None else counts
    return {
        kind: round(float(encoder_cost(config, units, kind, samples)))
        for kind in ("macs", "params")
    }
