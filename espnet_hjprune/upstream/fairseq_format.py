"""Configuration and weights of fairseq-style models (as s3prl holds them) in our encoder's terms.

s3prl's converted checkpoints hold ``task_cfg``, ``model_cfg`` and ``model_weight``; HuBERT adds
``dictionaries_symbols``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch

from espnet_hjprune.errors import HJPruneError
from espnet_hjprune.nn.config import ConvLayerConfig, EncoderConfig, PositionalConfig

_CONV_TERM = re.compile(
    r"\[\s*\(\s*(\d+)\s*,\s*(\d+)\s*,\s*(\d+)\s*\)\s*,?\s*\]\s*(?:\*\s*(\d+))?|"
    r"\(\s*(\d+)\s*,\s*(\d+)\s*,\s*(\d+)\s*\)"
)


def parse_conv_layers(text: str) -> list[ConvLayerConfig]:
    """Read fairseq's ``[(512,10,5)] + [(512,3,2)] * 4`` without evaluating code.

    Raises:
        HJPruneError: text of another form.
    """
    layers: list[ConvLayerConfig] = []
    for match in _CONV_TERM.finditer(text):
        numbers = [int(g) for g in match.group(1, 2, 3) if g] or [
            int(g) for g in match.group(5, 6, 7)
        ]
        layers += [ConvLayerConfig(*numbers) for _ in range(int(match.group(4) or 1))]
    if not layers or re.sub(r"[\[\],+\s]", "", _CONV_TERM.sub("", text)):
        raise HJPruneError(f"cannot read conv_feature_layers {text!r} of the upstream checkpoint")
    return layers


def format_conv_layers(layers: list[ConvLayerConfig]) -> str:
    """Write CNN layers as fairseq does; the reverse of :func:`parse_conv_layers`."""
    return "[" + ", ".join(f"({c.channels},{c.kernel},{c.stride})" for c in layers) + "]"


def config_from_fairseq(
    model_cfg: Mapping[str, Any], task_cfg: Mapping[str, Any], family: str
) -> EncoderConfig:
    """Translate a fairseq model configuration.

    Args:
        model_cfg: fields of ``Wav2Vec2Config`` or ``HubertConfig``.
        task_cfg: fields of the pre-training task (``normalize``).
        family: ``wav2vec2`` or ``hubert``.

    Raises:
        HJPruneError: an option that our encoder does not have.
    """
    for option, supported in (
        ("layer_type", ("transformer",)),
        ("activation_fn", ("gelu", "relu")),
        ("quantize_input", (False,)),
        ("pos_conv_depth", (1,)),
        ("crop_seq_to_multiple", (1,)),
    ):
        value = model_cfg.get(option, supported[0])
        value = getattr(value, "value", value)
        if value not in supported:
            raise HJPruneError(
                f"the upstream checkpoint has {option}={value}; pruning supports "
                f"{' or '.join(map(str, supported))} only"
            )
    hidden = model_cfg["encoder_embed_dim"]
    heads = model_cfg["encoder_attention_heads"]
    layers = model_cfg["encoder_layers"]
    groups = model_cfg["conv_pos_groups"]
    return EncoderConfig(
        conv_layers=parse_conv_layers(model_cfg["conv_feature_layers"]),
        hidden_size=hidden,
        head_dim=hidden // heads,
        heads=[heads] * layers,
        ffn_sizes=[model_cfg["encoder_ffn_embed_dim"]] * layers,
        positional=PositionalConfig(model_cfg["conv_pos"], [hidden // groups] * groups),
        extractor_norm="layer" if str(model_cfg["extractor_mode"]) == "layer_norm" else "group",
        conv_bias=model_cfg["conv_bias"],
        norm_first=model_cfg["layer_norm_first"],
        normalize_input=bool(task_cfg.get("normalize", False)),
        length_rule="chunk" if family == "hubert" else "conv",
        activation=str(model_cfg.get("activation_fn", "gelu")),  # type: ignore[arg-type]
    )


def fairseq_from_config(config: EncoderConfig) -> tuple[dict[str, Any], dict[str, Any]]:
    """Translate a dense configuration to ``model_cfg`` and ``task_cfg`` of fairseq."""
    model_cfg = {
        "extractor_mode": "layer_norm" if config.extractor_norm == "layer" else "default",
        "encoder_layers": len(config.heads),
        "encoder_embed_dim": config.hidden_size,
        "encoder_ffn_embed_dim": config.ffn_sizes[0],
        "encoder_attention_heads": config.heads[0],
        "activation_fn": config.activation,
        "layer_norm_first": config.norm_first,
        "conv_feature_layers": format_conv_layers(config.conv_layers),
        "conv_bias": config.conv_bias,
        "conv_pos": config.positional.kernel,
        "conv_pos_groups": len(config.positional.group_widths),
        "final_dim": min(256, config.hidden_size),
        "encoder_layerdrop": 0.0,
        "feature_grad_mult": 0.1,
    }
    return model_cfg, {"normalize": config.normalize_input, "sample_rate": 16000}


def weight_names(config: EncoderConfig) -> dict[str, tuple[str, ...]]:
    """Our names of a dense encoder's weights with fairseq's.

    Several names mean that ours is theirs joined along the first axis. The projection, which not
    every model has, is left out.
    """
    names: dict[str, tuple[str, ...]] = {}

    def pair(ours: str, *theirs: str) -> None:
        for part in ("weight", "bias"):
            names[f"{ours}.{part}"] = tuple(f"{name}.{part}" for name in theirs)

    for index in range(len(config.conv_layers)):
        ours, theirs = f"feature_extractor.layers.{index}", f"feature_extractor.conv_layers.{index}"
        names[f"{ours}.conv.weight"] = (f"{theirs}.0.weight",)
        if config.conv_bias:
            names[f"{ours}.conv.bias"] = (f"{theirs}.0.bias",)
        if config.extractor_norm == "layer":
            pair(f"{ours}.norm", f"{theirs}.2.1")
        elif index == 0:
            pair(f"{ours}.norm", f"{theirs}.2")
    pair("projection_norm", "layer_norm")
    names["mask_embedding"] = ("mask_emb",)
    for part in ("weight_g", "weight_v", "bias"):
        names[f"positional.{part}"] = (f"encoder.pos_conv.0.{part}",)
    pair("transformer.norm", "encoder.layer_norm")
    for index in range(len(config.heads)):
        ours, theirs = f"transformer.layers.{index}", f"encoder.layers.{index}"
        attention = f"{theirs}.self_attn"
        projections = [f"{attention}.{name}_proj" for name in ("q", "k", "v")]
        pair(f"{ours}.attention.qkv", *projections)
        pair(f"{ours}.attention.out", f"{attention}.out_proj")
        pair(f"{ours}.attention_norm", f"{attention}_layer_norm")
        pair(f"{ours}.ffn.fc1", f"{theirs}.fc1")
        pair(f"{ours}.ffn.fc2", f"{theirs}.fc2")
        pair(f"{ours}.ffn_norm", f"{theirs}.final_layer_norm")
    return names


def convert_weights(
    weights: Mapping[str, torch.Tensor], config: EncoderConfig
) -> dict[str, torch.Tensor]:
    """Rename and join fairseq weights to the state of a dense :class:`SpeechEncoder`.

    Pre-training heads are dropped. A model whose CNN is as wide as its Transformer has no
    projection; it gets the identity, so that both widths can be pruned apart.

    Raises:
        HJPruneError: a weight is missing.
    """
    state: dict[str, torch.Tensor] = {}
    for ours, theirs in weight_names(config).items():
        missing = [name for name in theirs if name not in weights]
        if missing:
            raise HJPruneError(f"the upstream checkpoint lacks the weight {missing[0]}")
        state[ours] = torch.cat([weights[name].detach() for name in theirs]).clone()
    if "post_extract_proj.weight" in weights:
        for part in ("weight", "bias"):
            state[f"projection.{part}"] = weights[f"post_extract_proj.{part}"].detach().clone()
    else:
        state["projection.weight"] = torch.eye(config.hidden_size)
        state["projection.bias"] = torch.zeros(config.hidden_size)
    return state


def fairseq_weights(
    state: Mapping[str, torch.Tensor], config: EncoderConfig
) -> dict[str, torch.Tensor]:
    """Split and rename the state of a dense encoder; the reverse of :func:`convert_weights`."""
    weights = {
        f"post_extract_proj.{part}": state[f"projection.{part}"] for part in ("weight", "bias")
    }
    for ours, theirs in weight_names(config).items():
        weights |= zip(theirs, state[ours].chunk(len(theirs)), strict=True)
    return {name: tensor.detach().clone() for name, tensor in weights.items()}
