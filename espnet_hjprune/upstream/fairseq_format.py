"""Configuration and weights of fairseq's models, as s3prl holds them, in our encoder's terms."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Literal

import torch

from espnet_hjprune.errors import HJPruneError
from espnet_hjprune.nn.config import (
    ConvLayerConfig,
    EncoderConfig,
    PositionalConfig,
)

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


def check_supported(
    options: Mapping[str, Any],
    supported: Mapping[str, tuple[Any, ...]],
    source: str = "the upstream checkpoint",
) -> None:
    """Check that options of a checkpoint have values that our encoder has too.

    Args:
        options: all options; one that is absent has the first of its supported values.
        supported: values of every option that matters.
        source: where the options are from, for the message.

    Raises:
        HJPruneError: another value.
    """
    for option, values in supported.items():
        value = options.get(option, values[0])
        value = getattr(value, "value", value)
        if value not in values:
            raise HJPruneError(
                f"{source} has {option}={value}; pruning supports "
                f"{' or '.join(map(str, values))} only"
            )


def config_from_fairseq(
    model_cfg: Mapping[str, Any], normalize: bool, length_rule: Literal["conv", "chunk"]
) -> EncoderConfig:
    """Translate what all families share of a fairseq model configuration.

    Args:
        model_cfg: fields of a configuration such as ``Wav2Vec2Config`` or ``HubertConfig``.
        normalize: whether utterances are scaled to zero mean and unit variance.
        length_rule: see :class:`EncoderConfig`.

    Raises:
        HJPruneError: an option that our encoder does not have.
    """
    check_supported(
        model_cfg,
        {
            "layer_type": ("transformer",),
            "activation_fn": ("gelu", "relu"),
            "quantize_input": (False,),
            "crop_seq_to_multiple": (1,),
        },
    )
    hidden = model_cfg["encoder_embed_dim"]
    heads = model_cfg["encoder_attention_heads"]
    layers = model_cfg["encoder_layers"]
    groups = model_cfg["conv_pos_groups"]
    depth = model_cfg.get("pos_conv_depth", 1)
    kernel = model_cfg["conv_pos"]
    return EncoderConfig(
        conv_layers=parse_conv_layers(model_cfg["conv_feature_layers"]),
        hidden_size=hidden,
        head_dim=hidden // heads,
        heads=[heads] * layers,
        ffn_sizes=[model_cfg["encoder_ffn_embed_dim"]] * layers,
        positional=PositionalConfig(
            # fairseq gives the frames that several convolutions see together.
            kernel if depth == 1 else max(3, kernel // depth),
            [hidden // groups] * groups,
            weight_norm=depth == 1,
            depth=depth,
        ),
        extractor_norm="layer" if str(model_cfg["extractor_mode"]) == "layer_norm" else "group",
        conv_bias=model_cfg["conv_bias"],
        norm_first=model_cfg["layer_norm_first"],
        normalize_input=normalize,
        length_rule=length_rule,
        activation=str(model_cfg.get("activation_fn", "gelu")),  # type: ignore[arg-type]
    )


def fairseq_from_config(config: EncoderConfig) -> tuple[dict[str, Any], dict[str, Any]]:
    """Translate a dense configuration to ``model_cfg`` and ``task_cfg`` of fairseq."""
    depth = config.positional.depth
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
        "conv_pos": depth * config.positional.kernel,
        "conv_pos_groups": len(config.positional.group_widths),
        "final_dim": min(256, config.hidden_size),
        "encoder_layerdrop": 0.0,
        "feature_grad_mult": 0.1,
    }
    if depth > 1:
        model_cfg["pos_conv_depth"] = depth
    return model_cfg, {"normalize": config.normalize_input, "sample_rate": 16000}


def weight_names(config: EncoderConfig) -> dict[str, tuple[str, ...]]:
    """Our names of a dense encoder's weights with fairseq's.

    Several names mean that ours is theirs joined along the first axis. What not every model has
    (the projection and the mask embedding) is left out.
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
    if config.projection_norm:
        pair("feature_projection.norm", "layer_norm")
    depth = config.positional.depth
    for index in range(depth):
        ours = f"positional_embedding.convs.{index}"
        theirs = "encoder.pos_conv.0" if depth == 1 else f"encoder.pos_conv.{index}.0"
        if config.positional.weight_norm:
            names[f"{ours}.weight_g"] = (f"{theirs}.weight_g",)
            names[f"{ours}.weight_v"] = (f"{theirs}.weight_v",)
        else:
            names[f"{ours}.weights.0"] = (f"{theirs}.weight",)
        names[f"{ours}.bias"] = (f"{theirs}.bias",)
    pair("transformer.norm", "encoder.layer_norm")
    if config.relative is not None:
        names["transformer.relative.table"] = (
            "encoder.layers.0.self_attn.relative_attention_bias.weight",
        )
    for index in range(len(config.heads)):
        ours, theirs = f"transformer.layers.{index}", f"encoder.layers.{index}"
        attention = f"{theirs}.self_attn"
        projections = [f"{attention}.{name}_proj" for name in ("q", "k", "v")]
        pair(f"{ours}.attention.qkv", *projections)
        pair(f"{ours}.attention.out", f"{attention}.out_proj")
        if config.relative is not None and config.relative.gated:
            pair(f"{ours}.attention.bias_gate.proj", f"{attention}.grep_linear")
            names[f"{ours}.attention.bias_gate.scale"] = (f"{attention}.grep_a",)
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
    projection; it gets the identity, so that both widths can be pruned apart. One without mask
    embedding gets zeros: what fairseq has there is drawn once and learned in pre-training, so that
    no other draw would be it, and each load would have its own.

    Raises:
        HJPruneError: a weight is missing.
    """
    state: dict[str, torch.Tensor] = {}
    for ours, theirs in weight_names(config).items():
        missing = [name for name in theirs if name not in weights]
        if missing:
            raise HJPruneError(f"the upstream checkpoint lacks the weight {missing[0]}")
        state[ours] = torch.cat([weights[name].detach() for name in theirs]).clone()
        if ours.endswith("bias_gate.scale"):
            state[ours] = state[ours].flatten()
    if "post_extract_proj.weight" in weights:
        for part in ("weight", "bias"):
            state[f"feature_projection.linear.{part}"] = (
                weights[f"post_extract_proj.{part}"].detach().clone()
            )
    else:
        state["feature_projection.linear.weight"] = torch.eye(config.hidden_size)
        state["feature_projection.linear.bias"] = torch.zeros(config.hidden_size)
    embedding = weights.get("mask_emb", torch.zeros(config.hidden_size))
    state["mask_embedding"] = embedding.detach().clone()
    return state


def fairseq_weights(
    state: Mapping[str, torch.Tensor], config: EncoderConfig
) -> dict[str, torch.Tensor]:
    """Split and rename the state of a dense encoder; the reverse of :func:`convert_weights`."""
    weights = {
        f"post_extract_proj.{part}": state[f"feature_projection.linear.{part}"]
        for part in ("weight", "bias")
    }
    weights["mask_emb"] = state["mask_embedding"]
    for ours, theirs in weight_names(config).items():
        tensor = state[ours]
        if ours.endswith("bias_gate.scale"):
            tensor = tensor.view(1, -1, 1, 1)
        parts = [tensor] if len(theirs) == 1 else tensor.chunk(len(theirs))
        weights |= zip(theirs, parts, strict=True)
    return {name: tensor.detach().clone() for name, tensor in weights.items()}
