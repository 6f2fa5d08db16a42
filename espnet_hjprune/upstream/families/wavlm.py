"""WavLM (arXiv 2110.13900): HuBERT with a gated relative position bias."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch import nn

from espnet_hjprune.nn.config import EncoderConfig, RelativeBiasConfig
from espnet_hjprune.upstream import sizes
from espnet_hjprune.upstream.fairseq_format import config_from_fairseq, fairseq_from_config
from espnet_hjprune.upstream.family import Family
from espnet_hjprune.upstream.form import Loaded
from espnet_hjprune.upstream.huggingface_form import HuggingFaceForm
from espnet_hjprune.upstream.s3prl_form import S3prlForm


def _adapt(config: EncoderConfig) -> EncoderConfig:
    relative = RelativeBiasConfig(320, 800, config.heads[0], config.head_dim)
    return replace(config, relative=relative, length_rule="chunk")


def read(expert: Any) -> Loaded:
    """Read s3prl's ``WavLM``, with or without the bias."""
    cfg = vars(expert.cfg)
    config = config_from_fairseq(cfg, bool(cfg["normalize"]), "chunk")
    return replace(config, relative=_relative(cfg, config)), expert.model.state_dict()


def _relative(cfg: Mapping[str, Any], config: EncoderConfig) -> RelativeBiasConfig | None:
    """The bias that the options of ``WavLMConfig`` describe."""
    if not cfg.get("relative_position_embedding"):
        return None
    return RelativeBiasConfig(
        buckets=cfg["num_buckets"],
        max_distance=cfg["max_distance"],
        heads=config.heads[0],
        head_dim=config.head_dim,
        gated=bool(cfg.get("gru_rel_pos", False)),
    )


def make(config: EncoderConfig) -> tuple[nn.Module, dict[str, Any]]:
    """Build s3prl's ``WavLM``, with or without the bias."""
    from s3prl.upstream.wavlm.WavLM import WavLM, WavLMConfig

    cfg, task_cfg = fairseq_from_config(config)
    cfg["normalize"] = task_cfg["normalize"]
    if config.relative is not None:
        cfg |= {
            "relative_position_embedding": True,
            "num_buckets": config.relative.buckets,
            "max_distance": config.relative.max_distance,
            "gru_rel_pos": config.relative.gated,
        }
    return WavLM(WavLMConfig(cfg)), {"cfg": cfg}


def _complete(config: EncoderConfig, theirs: Any) -> EncoderConfig:
    """Add the bias of transformers' ``WavLMConfig``, which always has one."""
    relative = RelativeBiasConfig(
        theirs.num_buckets, theirs.max_bucket_distance, config.heads[0], config.head_dim
    )
    return replace(config, relative=relative)


def _hugging_face_options(config: EncoderConfig) -> dict[str, Any]:
    if config.relative is None:
        return {}
    return {
        "num_buckets": config.relative.buckets,
        "max_bucket_distance": config.relative.max_distance,
    }


FAMILY = Family(
    s3prl=S3prlForm("wavlm", "wavlm*", "model", ("cfg",), read, make),
    adapt=_adapt,
    architectures={
        "wavlm_base": lambda: _adapt(sizes.base()),
        "wavlm_base_plus": lambda: _adapt(sizes.base()),
        "wavlm_large": lambda: _adapt(sizes.large()),
        "wavlm_mini": lambda: _adapt(sizes.mini()),
    },
    hugging_face=HuggingFaceForm("wavlm", "WavLMModel", _complete, _hugging_face_options),
)
