"""Dense encoders from s3prl upstreams: s3prl reads the checkpoint, we take the weights."""

from __future__ import annotations

import dataclasses
import importlib
import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from espnet_hjprune.errors import HJPruneError
from espnet_hjprune.nn.config import EncoderConfig
from espnet_hjprune.upstream.fairseq_format import config_from_fairseq, convert_weights
from espnet_hjprune.upstream.s3prl_names import upstream_family

Loaded = tuple[EncoderConfig, Mapping[str, torch.Tensor]]


def load_upstream(
    name: str, path_or_url: str | None = None, download_dir: str | None = None
) -> tuple[EncoderConfig, dict[str, torch.Tensor]]:
    """Load an s3prl upstream and return our configuration and state.

    Args:
        name: an s3prl upstream name, for example ``wav2vec2_base_960`` or ``wav2vec2_local``.
        path_or_url: its checkpoint, for the ``_local``, ``_url`` and ``_custom`` names; a
            directory or a hub name for the ``hf_`` names.
        download_dir: where downloads are kept.

    Raises:
        HJPruneError: an unknown or unsupported upstream, a missing checkpoint, or one of
            another kind.
    """
    family = upstream_family(name)
    hugging_face = family.startswith("hf_")
    needs_path = hugging_face or name.endswith(("_local", "_url", "_custom"))
    if needs_path and not path_or_url:
        raise HJPruneError(f"the upstream {name} needs a checkpoint; give its path or URL")
    if path_or_url and not needs_path:
        raise HJPruneError(
            f"the upstream {name} brings its own checkpoint; to use {path_or_url} name the "
            f"upstream {family}_local"
        )
    if hugging_face:
        from espnet_hjprune.upstream.huggingface_source import load_hugging_face

        config, weights = load_hugging_face(family, str(path_or_url), download_dir)
    else:
        config, weights = _load_s3prl(name, family, path_or_url, download_dir)
    if "post_extract_proj.weight" not in weights:
        logging.info(
            "The upstream's CNN is as wide as its Transformer; adding an identity projection"
        )
    return config, convert_weights(weights, config)


def _load_s3prl(
    name: str, family: str, path_or_url: str | None, download_dir: str | None
) -> Loaded:
    """Let s3prl build the upstream, then read it off."""
    if path_or_url and "://" not in path_or_url and not Path(path_or_url).is_file():
        raise HJPruneError(f"the upstream checkpoint {path_or_url} does not exist")
    hubconf = importlib.import_module(f"s3prl.upstream.{family}.hubconf")
    if download_dir is not None:
        import s3prl.util.download

        s3prl.util.download.set_dir(download_dir)
    try:
        expert = getattr(hubconf, name)(**({"ckpt": path_or_url} if path_or_url else {}))
    except Exception as error:
        # s3prl reports a file of another kind through whatever its reader stumbles over.
        reason = str(error).splitlines()[0] if str(error) else ""
        raise HJPruneError(
            f"{path_or_url or name} cannot be read as a {family} checkpoint in s3prl's converted "
            f"format ({type(error).__name__}: {reason})"
        ) from error
    return READERS[family](expert)


def _as_dict(config: Any) -> dict[str, Any]:
    return dataclasses.asdict(config) if dataclasses.is_dataclass(config) else dict(config)


def _read_wav2vec2(expert: Any) -> Loaded:
    """wav2vec 2.0, XLS-R and data2vec."""
    model_cfg = _as_dict(expert.model.cfg)
    return (
        config_from_fairseq(model_cfg, bool(expert.wav_normalize), "conv"),
        expert.model.state_dict(),
    )


def _read_wavlm(expert: Any) -> Loaded:
    """WavLM and UniSpeech-SAT, whose models are of one class."""
    model_cfg = vars(expert.cfg)
    return (
        config_from_fairseq(model_cfg, bool(expert.cfg.normalize), "chunk"),
        expert.model.state_dict(),
    )


def _read_hubert(expert: Any) -> Loaded:
    model_cfg = _hubert_config(expert.model)
    normalize = bool(_as_dict(expert.task_cfg).get("normalize", False))
    return config_from_fairseq(model_cfg, normalize, "chunk"), expert.model.state_dict()


def _hubert_config(model: torch.nn.Module) -> dict[str, Any]:
    """Read a HuBERT configuration off the model, which does not keep the one it was made from."""
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
        if isinstance(model.feature_extractor.conv_layers[-1][2], torch.nn.Sequential)
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


def _read_distiller(expert: Any) -> Loaded:
    """DistilHuBERT: the encoder without its prediction heads."""
    model = expert.model.model
    model_cfg = dict(vars(model.config))
    for option, supported in (
        ("attention_type", ("original",)),
        ("task_emb_type", ("expand-last", "self-hidden", "none")),
        ("layer_norm_first", (False,)),
    ):
        if model_cfg[option] not in supported:
            raise HJPruneError(
                f"the upstream checkpoint has {option}={model_cfg[option]}; pruning supports "
                f"{' or '.join(map(str, supported))} only"
            )
    model_cfg["conv_feature_layers"] = model_cfg["extractor_conv_feature_layers"]
    model_cfg["conv_bias"] = False
    config = config_from_fairseq(model_cfg, False, "conv")
    return replace(config, projection_norm=False), model.state_dict()


READERS: dict[str, Callable[[Any], Loaded]] = {
    "wav2vec2": _read_wav2vec2,
    "hubert": _read_hubert,
    "wavlm": _read_wavlm,
    "unispeech_sat": _read_wavlm,
    "data2vec": _read_wav2vec2,
    "distiller": _read_distiller,
}
