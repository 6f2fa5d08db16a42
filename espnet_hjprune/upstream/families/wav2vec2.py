"""wav2vec 2.0 (arXiv 2006.11477) and its multilingual XLSR and XLS-R (arXiv 2111.09296)."""

from __future__ import annotations

from typing import Any

from torch import nn

from espnet_hjprune.nn.config import EncoderConfig
from espnet_hjprune.upstream import sizes
from espnet_hjprune.upstream.fairseq_format import config_from_fairseq, fairseq_from_config
from espnet_hjprune.upstream.family import Family
from espnet_hjprune.upstream.form import Loaded
from espnet_hjprune.upstream.huggingface_form import HuggingFaceForm
from espnet_hjprune.upstream.s3prl_form import S3prlForm, as_dict


def _adapt(config: EncoderConfig) -> EncoderConfig:
    return config


def _read(expert: Any) -> Loaded:
    model_cfg = as_dict(expert.model.cfg)
    config = config_from_fairseq(model_cfg, bool(expert.wav_normalize), "conv")
    return config, expert.model.state_dict()


def _make(config: EncoderConfig) -> tuple[nn.Module, dict[str, Any]]:
    from s3prl.upstream.wav2vec2.wav2vec2_model import Wav2Vec2Config, Wav2Vec2Model

    model_cfg, task_cfg = fairseq_from_config(config)
    model_cfg["quantize_targets"] = True
    model = Wav2Vec2Model(Wav2Vec2Config(**model_cfg))
    return model, {"task_cfg": task_cfg, "model_cfg": model_cfg}


FAMILY = Family(
    s3prl=S3prlForm(
        "wav2vec2",
        "wav2vec2*, xlsr_53, xls_r_*",
        "model_weight",
        ("task_cfg", "model_cfg"),
        _read,
        _make,
    ),
    adapt=_adapt,
    architectures={
        "wav2vec2_base": sizes.base,
        "wav2vec2_large": lambda: sizes.large(conv_bias=True),
        "xls_r_300m": lambda: sizes.large(conv_bias=True),
        "xls_r_1b": lambda: sizes.xlarge(conv_bias=True),
        "wav2vec2_mini": sizes.mini,
    },
    hugging_face=HuggingFaceForm("wav2vec2", "Wav2Vec2Model"),
)
