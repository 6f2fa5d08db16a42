"""LightHuBERT (arXiv 2203.15610): subnets of a HuBERT whose layers can be narrowed.

A published checkpoint holds the weights of a supernet, 12 layers of width 768. s3prl runs one
subnet of it, and that is what is read here: the leading features, heads and FFN units. The numbers
of parameters are the published ones: 67, 27 and 94 million. As with s3prl, the first state is the
projected frames.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from espnet_hjprune.errors import HJPruneError
from espnet_hjprune.nn.config import EncoderConfig
from espnet_hjprune.upstream import sizes
from espnet_hjprune.upstream.fairseq_format import (
    check_supported,
    config_from_fairseq,
    fairseq_from_config,
)
from espnet_hjprune.upstream.family import Family, Weights
from espnet_hjprune.upstream.form import Loaded
from espnet_hjprune.upstream.s3prl_form import S3prlForm

LAYERS = 12
HEAD_DIM = 64
# Width of the supernet, and of the subnets that s3prl runs.
FULL, BASE, SMALL = 768, 640, 384
_LAYER_WEIGHT = re.compile(r"encoder\.layers\.(\d+)\.([\w.]+)\.(weight|bias)")


def _subnet(config: EncoderConfig, hidden: int) -> EncoderConfig:
    """A subnet of one width, as wide in all layers, and with four times as many FFN units."""
    groups = len(config.positional.group_widths)
    positional = replace(
        config.positional,
        group_widths=[hidden // groups] * groups,
        # The norm is taken over the whole supernet, so a narrower subnet cannot keep it.
        weight_norm=hidden == FULL,
    )
    return replace(
        config,
        hidden_size=hidden,
        head_dim=HEAD_DIM,
        heads=[hidden // HEAD_DIM] * LAYERS,
        ffn_sizes=[4 * hidden] * LAYERS,
        positional=positional,
        norm_first=False,
        normalize_input=True,
        length_rule="chunk",
        first_state="projected",
    )


def _adapt(config: EncoderConfig) -> EncoderConfig:
    return _subnet(config, SMALL)


def _published(hidden: int) -> EncoderConfig:
    return _subnet(sizes.base(extractor_norm="layer"), hidden)


def _read(expert: Any) -> Loaded:
    model = expert.model
    options = vars(model.cfg)
    check_supported(
        options,
        {
            # With pre-norm layers s3prl gives the last state without its norm.
            "layer_norm_first": (False,),
            "prune_encoder_pos_conv": (True,),
        },
    )
    supernet = config_from_fairseq(options, True, "chunk")
    hidden = model.sample_embed_dim
    groups = len(supernet.positional.group_widths)
    config = replace(
        supernet,
        hidden_size=hidden,
        heads=list(model.sample_heads_num),
        ffn_sizes=list(model.sample_ffn_embed),
        positional=replace(
            supernet.positional,
            group_widths=[hidden // groups] * groups,
            weight_norm=supernet.positional.weight_norm and hidden == supernet.hidden_size,
        ),
        first_state="projected",
    )
    return config, _narrow(model.state_dict(), config)


def _narrow(weights: Weights, config: EncoderConfig) -> dict[str, torch.Tensor]:
    """Take a subnet's weights from those of the supernet."""
    hidden = config.hidden_size
    full = weights["encoder.layer_norm.weight"].numel()
    narrowed = {name: weight for name, weight in weights.items() if "pos_conv" not in name}
    narrowed |= _narrow_positional(weights, config)
    for name, weight in narrowed.items():
        match = _LAYER_WEIGHT.fullmatch(name)
        if match:
            layer, module = int(match[1]), match[2]
            features = torch.arange(hidden)
            heads = torch.arange(config.heads[layer] * config.head_dim)
            units = _ffn_units(config.ffn_sizes[layer], hidden, full)
            rows, columns = {
                "self_attn.q_proj": (heads, features),
                "self_attn.k_proj": (heads, features),
                "self_attn.v_proj": (heads, features),
                "self_attn.out_proj": (features, heads),
                "fc1": (units, features),
                "fc2": (features, units),
            }.get(module, (features, features))
            narrowed[name] = weight[rows] if weight.dim() == 1 else weight[rows][:, columns]
        elif name.startswith(("encoder.layer_norm.", "post_extract_proj.", "mask_emb")):
            narrowed[name] = weight[:hidden]
    return narrowed


def _ffn_units(units: int, hidden: int, full: int) -> torch.Tensor:
    """Places of a subnet's FFN units in the supernet, of width ``full``.

    The units are blocks of as many as the model is wide; of each block the first are taken.
    """
    place = torch.arange(units)
    return place.div(hidden, rounding_mode="floor") * full + place % hidden


def _narrow_positional(weights: Weights, config: EncoderConfig) -> dict[str, torch.Tensor]:
    """The positional convolutions, whose groups all become narrower."""
    own = {name: weight for name, weight in weights.items() if "pos_conv" in name}
    if config.positional.weight_norm:
        return own
    if config.positional.depth == 1:
        gain, direction = (own.pop(f"encoder.pos_conv.0.weight_{part}") for part in "gv")
        own["encoder.pos_conv.0.weight"] = torch._weight_norm(direction, gain, 2)
    hidden, width = config.hidden_size, config.positional.group_widths[0]
    return {
        name: weight[:hidden, :width] if weight.dim() == 3 else weight[:hidden]
        for name, weight in own.items()
    }


def _make(config: EncoderConfig) -> tuple[nn.Module, dict[str, Any]]:
    from s3prl.upstream.lighthubert.lighthubert import LightHuBERT, LightHuBERTConfig

    names: Mapping[int, dict[str, str]] = {
        FULL: {"_name": "student_hubert"},
        BASE: {"_name": "hubert_pruner", "pruner_supernet": "supernet/base.yaml"},
        SMALL: {"_name": "hubert_pruner", "pruner_supernet": "supernet/small.yaml"},
    }
    if config.hidden_size not in names:
        raise HJPruneError(
            f"LightHuBERT has no subnet of width {config.hidden_size}; s3prl runs those of "
            f"{', '.join(map(str, names))}"
        )
    cfg, _ = fairseq_from_config(config)
    cfg |= {
        "encoder_embed_dim": FULL,
        "encoder_ffn_embed_dim": 4 * FULL,
        "encoder_attention_heads": FULL // HEAD_DIM,
        **names[config.hidden_size],
    }
    # The heads of pre-training are published with the model; s3prl does not read them.
    heads = {"final_proj.weight": torch.zeros(256, FULL), "final_proj.bias": torch.zeros(256)}
    return LightHuBERT(LightHuBERTConfig(cfg)), {"cfg": {"model": cfg}, "model": heads}


def _read_stock(weights: Weights, config: EncoderConfig, layer: int) -> Weights:
    """The frontend keeps the whole supernet."""
    supernet = any(name.startswith("layer_pred_heads.") for name in weights)
    if supernet and config.first_state == "projected":
        return _narrow(weights, config)
    return weights


FAMILY = Family(
    s3prl=S3prlForm("lighthubert", "lighthubert*", "model", ("cfg",), _read, _make),
    adapt=_adapt,
    architectures={
        "lighthubert_base": lambda: _published(BASE),
        "lighthubert_small": lambda: _published(SMALL),
        "lighthubert_stage1": lambda: _published(FULL),
    },
    read_stock=_read_stock,
)
