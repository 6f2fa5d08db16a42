"""HuBERT (arXiv 2106.07447)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch import nn

from espnet_hjprune.nn.config import EncoderConfig
from espnet_hjprune.upstream import sizes
from espnet_hjprune.upstream.fairseq_format import config_from_fairseq, fairseq_from_config
from espnet_hjprune.upstream.family import Family
from espnet_hjprune.upstream.form import Loaded
from espnet_hjprune.upstream.huggingface_form import HuggingFaceForm
from espnet_hjprune.upstream.s3prl_form import S3prlForm, as_dict

# Clusters that the pre-training predicts; the published models have 500.
LABELS = [str(number) for number in range(100)]


def _adapt(config: EncoderConfig) -> EncoderConfig:
    return replace(config, length_rule="chunk")


def _read(expert: Any) -> Loaded:
    normalize = bool(as_dict(expert.task_cfg).get("normalize", False))
    config = config_from_fairseq(_options(expert.model), normalize, "chunk")
    return config, expert.model.state_dict()


def _options(model: Any) -> dict[str, Any]:
    """Read fairseq's options off the model, which does not keep those it was made from."""
    convs = [block[0] for block in model.feature_extractor.conv_layers]
    layers = model.encoder.layers
    positional = model.encoder.pos_conv[0]
    activation = layers[0].activation_fn
    return {
        "conv_feature_layers": str(
            [(c.out_channels, c.kernel_size[0], c.stride[0]) for c in convs]
        ),
        "conv_bias": convs[0].bias is not None,
        "extractor_mode": "layer_norm"
        if isinstance(model.feature_extractor.conv_layers[-1][2], nn.Sequential)
        else "default",
        "encoder_embed_dim": model.encoder.embedding_dim,
        "encoder_layers": len(layers),
        "encoder_attention_heads": layers[0].self_attn.num_heads,
        "encoder_ffn_embed_dim": layers[0].fc1.out_features,
        "conv_pos": positional.kernel_size[0],
        "conv_pos_groups": positional.groups,
        "layer_norm_first": model.encoder.layer_norm_first,
        "activation_fn": getattr(activation, "__name__", str(activation)),
        "layer_type": "transformer" if hasattr(layers[0], "fc1") else "conformer",
    }


def _make(config: EncoderConfig) -> tuple[nn.Module, dict[str, Any]]:
    from s3prl.upstream.hubert.hubert_model import (
        HubertConfig,
        HubertModel,
        HubertPretrainingConfig,
    )

    model_cfg, task_cfg = fairseq_from_config(config)
    model_cfg["label_rate"] = 50.0
    model = HubertModel(HubertConfig(**model_cfg), HubertPretrainingConfig(**task_cfg), [LABELS])
    content = {"task_cfg": task_cfg, "model_cfg": model_cfg, "dictionaries_symbols": [LABELS]}
    return model, content


FAMILY = Family(
    s3prl=S3prlForm(
        "hubert",
        "hubert*",
        "model_weight",
        ("task_cfg", "model_cfg", "dictionaries_symbols"),
        _read,
        _make,
    ),
    adapt=_adapt,
    architectures={
        "hubert_base": lambda: _adapt(sizes.base()),
        "hubert_large": lambda: _adapt(sizes.large()),
        "hubert_xlarge": lambda: _adapt(sizes.xlarge()),
        "hubert_mini": lambda: _adapt(sizes.mini()),
    },
    hugging_face=HuggingFaceForm("hubert", "HubertModel"),
)
