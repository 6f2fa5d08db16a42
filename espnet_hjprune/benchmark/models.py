"""The encoders that a benchmark compares: random weights, or compact models that are there."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from espnet_hjprune.errors import HJPruneError
from espnet_hjprune.inference.export import SUFFIXES, FeatureModel, export
from espnet_hjprune.inference.runtime import load_exported
from espnet_hjprune.model.alignment import prune_at_random
from espnet_hjprune.model.upstream import SpeechUpstream
from espnet_hjprune.model.upstream_options import UpstreamOptions
from espnet_hjprune.nn.config import EncoderConfig
from espnet_hjprune.nn.encoder import SpeechEncoder
from espnet_hjprune.pruning.config import PruningConfig
from espnet_hjprune.upstream.families import family_of
from espnet_hjprune.upstream.random_checkpoint import save_random_checkpoint

PEERS = ("s3prl", "huggingface", "torchaudio")
# Runtimes of our models beside torch's own: format, quantisation and name of the export.
RUNTIMES: dict[str, tuple[str, str | None, str]] = {
    "onnx": ("onnx", None, "ONNX Runtime"),
    "onnx_int8": ("onnx", "int8", "ONNX Runtime int8"),
    "torchscript": ("torchscript", None, "TorchScript"),
    "torchscript_bf16": ("torchscript", "bf16", "TorchScript bf16"),
}


@dataclass
class Contender:
    """A model that takes part.

    Attributes:
        name: what it is called in tables and figures.
        forward: encodes ``(batch, samples)``, all utterances of full length.
        module: holds its weights.
        config: our architecture, for MACs and parameters.
    """

    name: str
    forward: Callable[[torch.Tensor], Any]
    module: nn.Module
    config: EncoderConfig


def own_model(name: str, encoder: SpeechEncoder) -> Contender:
    """Our encoder, dense or compact."""

    def forward(wave: torch.Tensor) -> torch.Tensor:
        lengths = torch.full((len(wave),), wave.shape[1], device=wave.device)
        return encoder(wave, lengths)[0][-1]

    return Contender(name, forward, encoder.eval(), encoder.config)


def pruned_encoder(
    encoder: SpeechEncoder, target: float, round_to: int = 1, seed: int = 0
) -> SpeechEncoder:
    """Remove a share of the MACs by random gates, more from some layers than from others."""
    options = PruningConfig(target_sparsity=target, round_to=round_to)
    return prune_at_random(encoder, options, seed)


def exported_model(model: Contender, runtime: str) -> Contender:
    """One of our models as another runtime runs it.

    Raises:
        HJPruneError: a package is missing.
    """
    form, quantize, name = RUNTIMES[runtime]
    upstream = SpeechUpstream(UpstreamOptions(architecture=model.config))
    upstream.encoder.load_state_dict(model.module.state_dict())
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory) / f"model{SUFFIXES[form]}"
        export(FeatureModel(upstream), file, form, quantize)
        run = load_exported(file)

    def forward(wave: torch.Tensor) -> torch.Tensor:
        return run(wave, torch.full((len(wave),), wave.shape[1]))[0]

    return Contender(f"{model.name}, {name}", forward, model.module, model.config)


def peer_model(peer: str, upstream: str, config: EncoderConfig) -> Contender:
    """The dense model as another package runs it.

    Raises:
        HJPruneError: the package or the architecture in it is missing.
    """
    try:
        return {"s3prl": _s3prl, "huggingface": _hugging_face, "torchaudio": _torchaudio}[peer](
            upstream, config
        )
    except ImportError as error:
        raise HJPruneError(
            f"{peer} takes part in the comparison only where it is installed ({error}); install "
            "it or leave it out of --peers"
        ) from error


def _s3prl(upstream: str, config: EncoderConfig) -> Contender:
    form = family_of(upstream).s3prl
    with tempfile.TemporaryDirectory() as directory:
        checkpoint = Path(directory) / "upstream.pt"
        save_random_checkpoint(config, form.key, checkpoint)
        expert = form.expert(f"{form.key}_local", str(checkpoint)).eval()
    return Contender("s3prl", lambda wave: expert(list(wave))["hidden_states"][-1], expert, config)


def _hugging_face(upstream: str, config: EncoderConfig) -> Contender:
    form = family_of(upstream).hugging_face
    if form is None:
        raise HJPruneError(f"transformers is not compared on {upstream}; leave it out of --peers")
    model = form.random_model(config)[0].eval()
    return Contender("huggingface", lambda wave: model(wave).last_hidden_state, model, config)


def _torchaudio(upstream: str, config: EncoderConfig) -> Contender:
    import torchaudio

    plain = config.relative is None and config.projection_norm and config.positional.weight_norm
    if not plain:
        raise HJPruneError(f"torchaudio is not compared on {upstream}; leave it out of --peers")
    model = torchaudio.models.wav2vec2_model(
        extractor_mode="layer_norm" if config.extractor_norm == "layer" else "group_norm",
        extractor_conv_layer_config=[(c.channels, c.kernel, c.stride) for c in config.conv_layers],
        extractor_conv_bias=config.conv_bias,
        encoder_embed_dim=config.hidden_size,
        encoder_projection_dropout=0.0,
        encoder_pos_conv_kernel=config.positional.kernel,
        encoder_pos_conv_groups=len(config.positional.group_widths),
        encoder_num_layers=len(config.heads),
        encoder_num_heads=config.heads[0],
        encoder_attention_dropout=0.0,
        encoder_ff_interm_features=config.ffn_sizes[0],
        encoder_ff_interm_dropout=0.0,
        encoder_dropout=0.0,
        encoder_layer_norm_first=config.norm_first,
        encoder_layer_drop=0.0,
        aux_num_out=None,
    ).eval()
    return Contender("torchaudio", lambda wave: model(wave)[0], model, config)
