"""data2vec for audio (arXiv 2202.03555): wav2vec 2.0 with five positional convolutions."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch import nn

from espnet_hjprune.nn.config import EncoderConfig
from espnet_hjprune.upstream import sizes
from espnet_hjprune.upstream.fairseq_format import config_from_fairseq, fairseq_from_config
from espnet_hjprune.upstream.family import Family
from espnet_hjprune.upstream.form import Loaded
from espnet_hjprune.upstream.s3prl_form import S3prlForm, as_dict


def _adapt(config: EncoderConfig) -> EncoderConfig:
    positional = replace(config.positional, kernel=19, weight_norm=False, depth=5)
    return replace(config, positional=positional, extractor_norm="layer")


def _read(expert: Any) -> Loaded:
    model_cfg = as_dict(expert.model.cfg)
    config = config_from_fairseq(model_cfg, bool(expert.wav_normalize), "conv")
    return config, expert.model.state_dict()


def _make(config: EncoderConfig) -> tuple[nn.Module, dict[str, Any]]:
    from s3prl.upstream.data2vec.data2vec_model import Data2VecAudioConfig, Data2VecAudioModel

    model_cfg, task_cfg = fairseq_from_config(config)
    model = Data2VecAudioModel(Data2VecAudioConfig(**model_cfg))
    model.remove_pretraining_modules()
    # The teacher is published with the model; s3prl leaves it out when it loads.
    content = {"task_cfg": task_cfg, "model_cfg": model_cfg, "model_weight": {"_ema": {}}}
    return model, content


FAMILY = Family(
    s3prl=S3prlForm(
        "data2vec", "data2vec*", "model_weight", ("task_cfg", "model_cfg"), _read, _make
    ),
    adapt=_adapt,
    architectures={
        "data2vec_base": lambda: _adapt(sizes.base(normalize_input=True)),
        "data2vec_large": lambda: _adapt(sizes.large(norm_first=False)),
        "data2vec_mini": lambda: _adapt(sizes.mini(normalize_input=True)),
    },
)
