"""DistilHuBERT (arXiv 2110.01900): the encoder without its prediction heads."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

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


def _adapt(config: EncoderConfig) -> EncoderConfig:
    return replace(
        config, projection_norm=False, normalize_input=False, conv_bias=False, norm_first=False
    )


def _read(expert: Any) -> Loaded:
    model = expert.model.model
    options = dict(vars(model.config))
    check_supported(
        options,
        {
            "attention_type": ("original",),
            "task_emb_type": ("expand-last", "self-hidden", "none"),
            # With pre-norm layers s3prl gives the last state without its norm.
            "layer_norm_first": (False,),
        },
    )
    options["conv_feature_layers"] = options["extractor_conv_feature_layers"]
    options["conv_bias"] = False
    config = config_from_fairseq(options, False, "conv")
    return replace(config, projection_norm=False), model.state_dict()


def _make(config: EncoderConfig) -> tuple[nn.Module, dict[str, Any]]:
    from s3prl.upstream.distiller.model import DistillerConfig, DistillerModel

    cfg, _ = fairseq_from_config(config)
    cfg["extractor_conv_feature_layers"] = cfg.pop("conv_feature_layers")
    cfg |= {"n_tasks": 3, "pred_layer_id": [4, 8, 12], "final_dim": config.hidden_size}
    return DistillerModel(DistillerConfig(cfg)), {"Config": {"distiller": cfg}}


def _read_stock(weights: Weights, config: EncoderConfig, layer: int) -> Weights:
    """s3prl wraps this model once more, and its last states are those of prediction heads."""
    if not any(name.startswith("model.") for name in weights):
        return weights
    if "model.output_layer.0.weight" in weights and layer < 1:
        raise HJPruneError(
            "the model reads a prediction head of DistilHuBERT, which is what the s3prl frontend "
            "gives unless it has an option layer; hj_prune keeps the layers only: fine-tune with it"
        )
    return {name.removeprefix("model."): tensor for name, tensor in weights.items()}


FAMILY = Family(
    s3prl=S3prlForm(
        "distiller", "distilhubert*, distiller_*", "Distiller", ("Config",), _read, _make
    ),
    adapt=_adapt,
    architectures={"distilhubert": lambda: _adapt(sizes.sized(512, 768, 2, 3072, 12))},
    read_stock=_read_stock,
)
