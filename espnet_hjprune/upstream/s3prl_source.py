"""Dense encoders from s3prl upstreams: s3prl reads the checkpoint, we take the weights."""

from __future__ import annotations

import dataclasses
import difflib
import logging
from pathlib import Path
from typing import Any

import torch

from espnet_hjprune.errors import HJPruneError
from espnet_hjprune.nn.config import EncoderConfig
from espnet_hjprune.upstream.fairseq_format import config_from_fairseq, convert_weights

FAMILIES = {"s3prl.upstream.wav2vec2": "wav2vec2", "s3prl.upstream.hubert": "hubert"}


def upstream_family(name: str) -> str:
    """Tell which supported family an s3prl upstream name belongs to, without loading it.

    Raises:
        HJPruneError: s3prl has no such upstream, or its family cannot be pruned.
    """
    from s3prl import hub

    entry = getattr(hub, name, None)
    if name.startswith("_") or not callable(entry):
        close = difflib.get_close_matches(name, hub.options(), n=3)
        hint = f"; close names are {', '.join(close)}" if close else ""
        raise HJPruneError(f"s3prl has no upstream called {name}{hint}")
    for module, family in FAMILIES.items():
        if entry.__module__.startswith(module + "."):
            return family
    raise HJPruneError(
        f"the upstream {name} cannot be pruned; supported are s3prl's wav2vec2*, xlsr_53, "
        "xls_r_* and hubert* upstreams"
    )


def load_upstream(
    name: str, path_or_url: str | None = None, download_dir: str | None = None
) -> tuple[EncoderConfig, dict[str, torch.Tensor]]:
    """Load an s3prl upstream and return our configuration and state.

    Args:
        name: an s3prl upstream name, for example ``wav2vec2_base_960`` or ``wav2vec2_local``.
        path_or_url: its checkpoint, for the ``_local``, ``_url`` and ``_custom`` names.
        download_dir: where s3prl keeps downloads.

    Raises:
        HJPruneError: an unknown or unsupported upstream, a missing checkpoint, or one of
            another kind.
    """
    import s3prl.util.download
    from s3prl import hub

    family = upstream_family(name)
    needs_path = name.endswith(("_local", "_url", "_custom"))
    if needs_path and not path_or_url:
        raise HJPruneError(f"the upstream {name} needs a checkpoint; give its path or URL")
    options: dict[str, Any] = {}
    if path_or_url:
        if not needs_path:
            raise HJPruneError(
                f"the upstream {name} brings its own checkpoint; to use {path_or_url} name the "
                f"upstream {family}_local"
            )
        if "://" not in path_or_url and not Path(path_or_url).is_file():
            raise HJPruneError(f"the upstream checkpoint {path_or_url} does not exist")
        options["ckpt"] = path_or_url
    if download_dir is not None:
        s3prl.util.download.set_dir(download_dir)
    try:
        expert = getattr(hub, name)(**options)
    except Exception as error:
        # s3prl reports a file of another kind through whatever its reader stumbles over.
        what = path_or_url or name
        raise HJPruneError(
            f"{what} cannot be read as a {family} checkpoint in s3prl's converted format "
            f"({type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''})"
        ) from error
    model = expert.model
    if family == "hubert":
        task_cfg, model_cfg = expert.task_cfg, _hubert_config(model)
    else:
        task_cfg, model_cfg = {"normalize": expert.wav_normalize}, model.cfg
    config = config_from_fairseq(_as_dict(model_cfg), _as_dict(task_cfg), family)
    weights = model.state_dict()
    if "post_extract_proj.weight" not in weights:
        logging.info(
            "The upstream's CNN is as wide as its Transformer; adding an identity projection"
        )
    return config, convert_weights(weights, config)


def _as_dict(config: Any) -> dict[str, Any]:
    return dataclasses.asdict(config) if dataclasses.is_dataclass(config) else dict(config)


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
