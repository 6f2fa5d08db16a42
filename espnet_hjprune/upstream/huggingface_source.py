"""Dense encoders from Hugging Face checkpoints, of a local directory or by a hub name."""

from __future__ import annotations

import json
import logging
import re
from pathlib import Path
from typing import Any

import torch

from espnet_hjprune.errors import HJPruneError
from espnet_hjprune.nn.config import (
    ConvLayerConfig,
    EncoderConfig,
    PositionalConfig,
    RelativeBiasConfig,
)

MODEL_CLASSES = {
    "hf_wav2vec2": ("wav2vec2", "Wav2Vec2Model"),
    "hf_hubert": ("hubert", "HubertModel"),
    "hf_wavlm": ("wavlm", "WavLMModel"),
}
# Of transformers' feature extractor.
EPSILON = 1e-7
# Names of transformers as patterns, and the names that fairseq has for the same weights.
_RENAMED = [
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"^feature_extractor\.conv_layers\.(\d+)\.conv\.", r"feature_extractor.conv_layers.\1.0."),
        (r"^feature_projection\.layer_norm\.", "layer_norm."),
        (r"^feature_projection\.projection\.", "post_extract_proj."),
        (r"^masked_spec_embed$", "mask_emb"),
        (r"^(encoder)\.pos_conv_embed\.conv\.", r"\1.pos_conv.0."),
        (r"parametrizations\.weight\.original0$", "weight_g"),
        (r"parametrizations\.weight\.original1$", "weight_v"),
        (r"^(encoder\.layers\.\d+)\.layer_norm\.", r"\1.self_attn_layer_norm."),
        (r"\.attention\.gru_rel_pos_const$", ".self_attn.grep_a"),
        (r"\.attention\.gru_rel_pos_linear\.", ".self_attn.grep_linear."),
        (r"\.attention\.rel_attn_embed\.", ".self_attn.relative_attention_bias."),
        (r"\.attention\.([qkv]|out)_proj\.", r".self_attn.\1_proj."),
        (r"\.feed_forward\.intermediate_dense\.", ".fc1."),
        (r"\.feed_forward\.output_dense\.", ".fc2."),
    )
]


def fairseq_name(name: str, extractor_norm: str) -> str:
    """Translate the name of a weight from transformers to fairseq."""
    for pattern, replacement in _RENAMED:
        name = pattern.sub(replacement, name)
    place = "2.1" if extractor_norm == "layer" else "2"
    return re.sub(r"^(feature_extractor\.conv_layers\.\d+)\.layer_norm\.", rf"\1.{place}.", name)


def load_hugging_face(
    family: str, path_or_name: str, download_dir: str | None = None
) -> tuple[EncoderConfig, dict[str, torch.Tensor]]:
    """Load a checkpoint of transformers.

    Args:
        family: ``hf_wav2vec2``, ``hf_hubert`` or ``hf_wavlm``.
        path_or_name: a directory, or a name on the hub.
        download_dir: where downloads are kept; ``None`` for the usual place.

    Returns:
        Our configuration, and the weights under fairseq's names.

    Raises:
        HJPruneError: there is no such checkpoint, it is of another kind or lacks weights, or has
            something that our encoder does not have.
    """
    import transformers

    local = Path(path_or_name)
    if not local.is_dir() and (path_or_name.startswith((".", "/")) or local.is_file()):
        raise HJPruneError(
            f"{path_or_name} is no directory with config.json and weights, as transformers saves "
            "them"
        )
    kind, class_name = MODEL_CLASSES[family]
    try:
        theirs = transformers.AutoConfig.from_pretrained(path_or_name, cache_dir=download_dir)
        if theirs.model_type != kind:
            raise HJPruneError(
                f"{path_or_name} holds a {theirs.model_type} model; the upstream {family}_custom "
                f"takes {kind} models"
            )
        model, report = getattr(transformers, class_name).from_pretrained(
            path_or_name, output_loading_info=True, cache_dir=download_dir
        )
    except HJPruneError:
        raise
    except Exception as error:
        # transformers reports broken files through whatever its readers stumble over.
        reason = " ".join(str(error).split())
        raise HJPruneError(
            f"{path_or_name} cannot be loaded as a {kind} model of transformers ({reason})"
        ) from error
    missing = sorted(set(report["missing_keys"]) - {"masked_spec_embed"})
    if missing:
        raise HJPruneError(f"{path_or_name} lacks the weight {missing[0]}; renew the checkpoint")
    config = config_from_hugging_face(theirs, path_or_name, download_dir)
    weights = {
        fairseq_name(name, config.extractor_norm): tensor
        for name, tensor in model.state_dict().items()
    }
    return config, weights


def config_from_hugging_face(
    theirs: Any, path_or_name: str, download_dir: str | None = None
) -> EncoderConfig:
    """Translate a configuration of transformers.

    Raises:
        HJPruneError: an option that our encoder does not have.
    """
    for option, supported in (
        ("add_adapter", (False,)),
        ("hidden_act", ("gelu", "relu")),
        ("feat_extract_activation", ("gelu",)),
        ("conv_pos_batch_norm", (False,)),
        ("adapter_attn_dim", (None,)),
        ("layer_norm_eps", (1e-5,)),
    ):
        value = getattr(theirs, option, supported[0])
        if value not in supported:
            raise HJPruneError(
                f"{path_or_name} has {option}={value}; pruning supports "
                f"{' or '.join(map(str, supported))} only"
            )
    hidden, heads = theirs.hidden_size, theirs.num_attention_heads
    groups = theirs.num_conv_pos_embedding_groups
    relative = None
    if theirs.model_type == "wavlm":
        relative = RelativeBiasConfig(
            theirs.num_buckets, theirs.max_bucket_distance, heads, hidden // heads
        )
    convs = zip(theirs.conv_dim, theirs.conv_kernel, theirs.conv_stride, strict=True)
    return EncoderConfig(
        conv_layers=[ConvLayerConfig(*layer) for layer in convs],
        hidden_size=hidden,
        head_dim=hidden // heads,
        heads=[heads] * theirs.num_hidden_layers,
        ffn_sizes=[theirs.intermediate_size] * theirs.num_hidden_layers,
        positional=PositionalConfig(theirs.num_conv_pos_embeddings, [hidden // groups] * groups),
        extractor_norm=theirs.feat_extract_norm,
        conv_bias=theirs.conv_bias,
        norm_first=theirs.do_stable_layer_norm,
        normalize_input=_normalizes(path_or_name, download_dir),
        normalize_epsilon=EPSILON,
        activation=theirs.hidden_act,
        projection_norm=getattr(theirs, "feat_proj_layer_norm", True),
        relative=relative,
    )


def _normalizes(path_or_name: str, download_dir: str | None) -> bool:
    """Whether the checkpoint's feature extractor scales utterances."""
    from transformers.utils import cached_file

    try:
        path = cached_file(path_or_name, "preprocessor_config.json", cache_dir=download_dir)
        return bool(json.loads(Path(str(path)).read_text(encoding="utf-8"))["do_normalize"])
    except (OSError, ValueError, KeyError):
        logging.warning(
            "%s does not say in preprocessor_config.json whether audio is normalised; it is "
            "normalised, as the published base models do",
            path_or_name,
        )
        return True
