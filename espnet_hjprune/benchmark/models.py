"""The encoders that a benchmark compares: random weights, or compact models that are there."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from espnet_hjprune.benchmark.modes import MODES, compiled
from espnet_hjprune.errors import HJPruneError
from espnet_hjprune.export.graphs import SUFFIXES, FeatureModel, export
from espnet_hjprune.inference.cuda_graph import CudaGraphs
from espnet_hjprune.inference.runtime import load_exported
from espnet_hjprune.model.alignment import prune_at_random
from espnet_hjprune.model.upstream import SpeechUpstream
from espnet_hjprune.model.upstream_options import UpstreamOptions
from espnet_hjprune.nn.config import DropoutConfig, EncoderConfig
from espnet_hjprune.nn.encoder import SpeechEncoder
from espnet_hjprune.pruning.config import PruningConfig
from espnet_hjprune.upstream.families import family_of
from espnet_hjprune.upstream.huggingface_form import hugging_face_options
from espnet_hjprune.upstream.random_checkpoint import save_random_checkpoint

# Runtimes of our models beside torch's own: format, quantisation and name of the export.
RUNTIMES: dict[str, tuple[str, str | None, str]] = {
    "onnx": ("onnx", None, "ONNX Runtime"),
    "onnx_int8": ("onnx", "int8", "ONNX Runtime int8"),
    "torchscript": ("torchscript", None, "TorchScript"),
    "torchscript_bf16": ("torchscript", "bf16", "TorchScript bf16"),
}
# A model of another package, and its last states of samples in the type of its weights.
Peer = tuple[nn.Module, Callable[[torch.Tensor], Any]]


@dataclass
class Contender:
    """A model that takes part.

    Attributes:
        name: what it is called in tables and figures.
        forward: encodes ``(batch, samples)`` in float32, all utterances of full length.
        module: holds its weights.
        config: our architecture, for MACs and parameters.
        variant: what the way in which it runs adds to its name.
    """

    name: str
    forward: Callable[[torch.Tensor], Any]
    module: nn.Module
    config: EncoderConfig
    variant: str = ""

    @property
    def is_compact(self) -> bool:
        """Whether it is one of ours, and not the dense one."""
        return isinstance(self.module, SpeechEncoder) and self.name != f"dense{self.variant}"


def own_model(name: str, encoder: SpeechEncoder) -> Contender:
    """Our encoder, dense or compact."""

    def forward(wave: torch.Tensor) -> torch.Tensor:
        lengths = torch.full((len(wave),), wave.shape[1], device=wave.device)
        return encoder(wave, lengths)[0][-1]

    return Contender(name, forward, encoder.eval(), encoder.config)


def in_mode(
    model: Contender, mode: str, autocast: Callable[[], AbstractContextManager[Any]]
) -> Contender:
    """A model as it is run: eager, as CUDA graphs or compiled, each call in mixed precision.

    Args:
        model: runs eagerly and without mixed precision.
        mode: one of :data:`MODES`.
        autocast: makes what every call is within.
    """
    forward = compiled(model.forward) if mode == "compile" else model.forward

    def mixed(wave: torch.Tensor) -> Any:
        with autocast():
            return forward(wave)

    run = CudaGraphs(mixed) if mode == "graph" else mixed
    return replace(model, name=model.name + MODES[mode], forward=run, variant=MODES[mode])


def pruned_encoder(
    encoder: SpeechEncoder,
    target: float,
    round_to: int = 1,
    seed: int = 0,
    latency_table: str = "",
) -> SpeechEncoder:
    """Remove a share of the MACs by random gates, more from some layers than from others.

    With a table of latencies it is a share of its seconds.
    """
    options = PruningConfig(
        criterion="latency" if latency_table else "macs",
        latency_table=latency_table,
        target_sparsity=target,
        round_to=round_to,
    )
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

    return Contender(f"{model.name}, {name}", forward, model.module, model.config, f", {name}")


def peer_model(peer: str, upstream: str, config: EncoderConfig) -> Contender:
    """The dense model as another package runs it, which must be importable.

    Raises:
        HJPruneError: the package does not have the architecture.
    """
    build = {"s3prl": _s3prl, "huggingface": _hugging_face, "torchaudio": _torchaudio}[peer]
    model, forward = build(upstream, config)
    model.eval()

    def in_own_type(wave: torch.Tensor) -> Any:
        return forward(wave.to(next(model.parameters()).dtype))

    return Contender(peer, in_own_type, model, config)


def _s3prl(upstream: str, config: EncoderConfig) -> Peer:
    form = family_of(upstream).s3prl
    with tempfile.TemporaryDirectory() as directory:
        checkpoint = Path(directory) / "upstream.pt"
        save_random_checkpoint(config, form.key, checkpoint)
        expert = form.expert(str(checkpoint))
    return expert, lambda wave: expert(list(wave))["hidden_states"][-1]


def _hugging_face(upstream: str, config: EncoderConfig) -> Peer:
    model = hugging_face_model(upstream, config)
    return model, lambda wave: model(wave).last_hidden_state


def hugging_face_model(
    upstream: str, config: EncoderConfig, dropout: DropoutConfig | None = None
) -> nn.Module:
    """The model of transformers with random weights, without masking and dropped layers.

    Args:
        upstream: a named architecture.
        config: of it.
        dropout: while training; ``None`` for the defaults, as in :class:`SpeechEncoder`.

    Raises:
        HJPruneError: the architecture has no such model.
    """
    import transformers

    form = family_of(upstream).hugging_face
    if form is None:
        raise HJPruneError(f"transformers is not compared on {upstream}; leave it out of --peers")
    dropout = dropout or DropoutConfig()
    options = hugging_face_options(config) | form.options(config)
    options |= {
        "feat_proj_dropout": dropout.input,
        "hidden_dropout": dropout.hidden,
        "attention_dropout": dropout.attention,
        "activation_dropout": dropout.activation,
        "apply_spec_augment": False,
        "mask_time_prob": 0.0,
    }
    theirs = transformers.AutoConfig.for_model(form.kind, **options)
    model: nn.Module = getattr(transformers, form.model_class)(theirs)
    return model


def _torchaudio(upstream: str, config: EncoderConfig) -> Peer:
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
    )
    return model, lambda wave: model(wave)[0]
