"""Randomly initialised upstream checkpoints in each family's own format on disk."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

from espnet_hjprune.atomic import replaced_directory, replaced_file
from espnet_hjprune.errors import HJPruneError
from espnet_hjprune.nn.config import EncoderConfig
from espnet_hjprune.upstream.fairseq_format import fairseq_from_config

LABELS = [str(number) for number in range(100)]


def save_random_checkpoint(
    config: EncoderConfig, family: str, path: str | Path, seed: int = 0, spread: float = 0.0
) -> None:
    """Let s3prl (or transformers) initialise a model and save it as the family's are published.

    Args:
        config: a dense architecture of the family.
        family: a key of ``names.FAMILIES``.
        path: checkpoint file, or directory for the ``hf_`` families; it appears when complete.
        seed: seed of the initial weights.
        spread: standard deviation of what is added to vectors (biases and the affines of norms),
            which start at constants otherwise.

    Raises:
        HJPruneError: an unknown family.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    if family not in MAKERS:
        raise HJPruneError(f"--family {family} is unknown; it is one of {', '.join(MAKERS)}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model, describe = MAKERS[family](config)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.dim() == 1:
                    parameter.add_(spread * torch.randn_like(parameter))
    if family.startswith("hf_"):
        with replaced_directory(path) as directory:
            model.save_pretrained(directory)
            describe(directory)
    else:
        with replaced_file(path) as temporary:
            torch.save(describe(model.state_dict()), temporary)


# A model, and what makes a checkpoint of its weights (or, for transformers, completes one).
Made = tuple[Any, Callable[[Any], Any]]


def _wav2vec2(config: EncoderConfig) -> Made:
    from s3prl.upstream.wav2vec2.wav2vec2_model import Wav2Vec2Config, Wav2Vec2Model

    model_cfg, task_cfg = fairseq_from_config(config)
    model_cfg["quantize_targets"] = True
    model = Wav2Vec2Model(Wav2Vec2Config(**model_cfg))
    return model, lambda weights: {
        "task_cfg": task_cfg,
        "model_cfg": model_cfg,
        "model_weight": weights,
    }


def _hubert(config: EncoderConfig) -> Made:
    from s3prl.upstream.hubert.hubert_model import (
        HubertConfig,
        HubertModel,
        HubertPretrainingConfig,
    )

    model_cfg, task_cfg = fairseq_from_config(config)
    model_cfg["label_rate"] = 50.0
    model = HubertModel(HubertConfig(**model_cfg), HubertPretrainingConfig(**task_cfg), [LABELS])
    return model, lambda weights: {
        "task_cfg": task_cfg,
        "model_cfg": model_cfg,
        "model_weight": weights,
        "dictionaries_symbols": [LABELS],
    }


def _data2vec(config: EncoderConfig) -> Made:
    from s3prl.upstream.data2vec.data2vec_model import Data2VecAudioConfig, Data2VecAudioModel

    model_cfg, task_cfg = fairseq_from_config(config)
    model = Data2VecAudioModel(Data2VecAudioConfig(**model_cfg))
    model.remove_pretraining_modules()
    # The teacher is published with the model; s3prl leaves it out when it loads.
    return model, lambda weights: {
        "task_cfg": task_cfg,
        "model_cfg": model_cfg,
        "model_weight": weights | {"_ema": {}},
    }


def _wavlm(config: EncoderConfig) -> Made:
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
    return WavLM(WavLMConfig(cfg)), lambda weights: {"cfg": cfg, "model": weights}


def _distiller(config: EncoderConfig) -> Made:
    from s3prl.upstream.distiller.model import DistillerConfig, DistillerModel

    cfg, _ = fairseq_from_config(config)
    cfg["extractor_conv_feature_layers"] = cfg.pop("conv_feature_layers")
    cfg |= {"n_tasks": 3, "pred_layer_id": [4, 8, 12], "final_dim": config.hidden_size}
    model = DistillerModel(DistillerConfig(cfg))
    return model, lambda weights: {"Config": {"distiller": cfg}, "Distiller": weights}


def _hugging_face(config: EncoderConfig, family: str) -> Made:
    import transformers

    from espnet_hjprune.upstream.huggingface_source import MODEL_CLASSES

    kind, class_name = MODEL_CLASSES[family]
    options: dict[str, Any] = {
        "hidden_size": config.hidden_size,
        "num_hidden_layers": len(config.heads),
        "num_attention_heads": config.heads[0],
        "intermediate_size": config.ffn_sizes[0],
        "conv_dim": [layer.channels for layer in config.conv_layers],
        "conv_kernel": [layer.kernel for layer in config.conv_layers],
        "conv_stride": [layer.stride for layer in config.conv_layers],
        "num_feat_extract_layers": len(config.conv_layers),
        "conv_bias": config.conv_bias,
        "num_conv_pos_embeddings": config.positional.kernel,
        "num_conv_pos_embedding_groups": len(config.positional.group_widths),
        "do_stable_layer_norm": config.norm_first,
        "feat_extract_norm": config.extractor_norm,
        "layerdrop": 0.0,
    }
    if config.relative is not None:
        options["num_buckets"] = config.relative.buckets
        options["max_bucket_distance"] = config.relative.max_distance
    model_config = transformers.AutoConfig.for_model(kind, **options)
    model = getattr(transformers, class_name)(model_config)
    extractor = transformers.Wav2Vec2FeatureExtractor(do_normalize=config.normalize_input)
    return model, extractor.save_pretrained


MAKERS: dict[str, Callable[[EncoderConfig], Made]] = {
    "wav2vec2": _wav2vec2,
    "hubert": _hubert,
    "data2vec": _data2vec,
    "wavlm": _wavlm,
    "unispeech_sat": _wavlm,
    "distiller": _distiller,
    "hf_wav2vec2": partial(_hugging_face, family="hf_wav2vec2"),
    "hf_hubert": partial(_hugging_face, family="hf_hubert"),
    "hf_wavlm": partial(_hugging_face, family="hf_wavlm"),
}
