"""Upstreams from checkpoints and from trained models, and back to disk.

One loader for all: an upstream is built from an ESPnet configuration and its weights by
:func:`build_upstream`, whoever asks.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import yaml

from espnet_hjprune.atomic import replaced_directory
from espnet_hjprune.config_file import read_config
from espnet_hjprune.errors import HJPruneError
from espnet_hjprune.model.espnet_config import NAME, upstream_options
from espnet_hjprune.model.model_dir import (
    find_weights,
    model_directory,
    read_compact_config,
    read_weights,
    upstream_weights,
)
from espnet_hjprune.model.upstream import SpeechUpstream
from espnet_hjprune.model.upstream_options import OWN_NAME, UpstreamOptions
from espnet_hjprune.nn.encoder import SpeechEncoder
from espnet_hjprune.upstream.architectures import architecture

# Where the upstream's weights stand in what :func:`save` writes.
SAVED_PREFIX = "frontend.core."


def load_upstream(
    name: str,
    path_or_url: str | None = None,
    download_dir: str | None = None,
    trust_checkpoint: bool = False,
    normalize_input: bool | None = None,
) -> SpeechUpstream:
    """Load an upstream by the name that s3prl has for it, or one that was pruned before.

    Args:
        name: such as ``wav2vec2_base_960``, or ``wav2vec2_local`` and ``hf_hubert_custom``, which
            need a checkpoint; ``hj_prune_local`` for what :func:`save` has written.
        path_or_url: the checkpoint: a file in s3prl's converted format, a directory or hub name of
            Hugging Face for the ``hf_`` names, or a model directory.
        download_dir: where downloads are kept; ``None`` for the usual place.
        trust_checkpoint: read a checkpoint that holds more than data too, which executes it; a
            model directory never is.
        normalize_input: whether utterances are scaled to zero mean and unit variance; ``None`` for
            what the checkpoint says.

    Returns:
        The upstream: ``upstream(wave, lengths)`` takes ``(batch, samples)`` at 16 kHz and returns
        features ``(batch, time, width)`` and valid frames ``(batch,)``.

    Raises:
        HJPruneError: an unknown or unsupported upstream, or a checkpoint that cannot be read.

    Example:
        >>> upstream = load_upstream("wav2vec2_local", "wav2vec_small.converted.pt")
        >>> pruner = upstream.add_gates(PruningConfig(target_sparsity=0.4))
    """
    if name == OWN_NAME:
        directory = model_directory(path_or_url)
        return load_trained_upstream(directory / "config.yaml", find_weights(directory))
    return SpeechUpstream(
        UpstreamOptions(
            upstream=name,
            path_or_url=path_or_url,
            download_dir=download_dir,
            trust_checkpoint=trust_checkpoint,
            normalize_input=normalize_input,
        )
    )


def random_upstream(architecture_name: str, seed: int = 0) -> SpeechUpstream:
    """Make an upstream of a named architecture with random weights, to try things out.

    Args:
        architecture_name: such as ``wav2vec2_mini`` or ``hubert_base``; ``hjprune profile --table``
            lists them.
        seed: seed of the weights.

    Raises:
        HJPruneError: an unknown name.
    """
    config = architecture(architecture_name)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return SpeechUpstream(UpstreamOptions(architecture=config))


def build_upstream(
    config: Mapping[str, Any],
    source: str | Path,
    state: Mapping[str, torch.Tensor],
    model_file: str | Path,
) -> SpeechUpstream:
    """Build the upstream of an ESPnet configuration and load its weights.

    Where the configuration names a checkpoint, it is not trusted, as it may come from elsewhere.

    Args:
        config: the configuration.
        source: where it comes from, for messages.
        state: the weights of the whole model.
        model_file: where those come from.

    Raises:
        HJPruneError: the weights do not fit.
    """
    options = replace(upstream_options(config, source), trust_checkpoint=False)
    upstream = SpeechUpstream(options)
    try:
        upstream.load_state_dict(upstream_weights(state))
    except RuntimeError as error:
        raise HJPruneError(
            f"{model_file} does not hold the weights of the model that {source} describes "
            f"({' '.join(str(error).split())[:200]})"
        ) from error
    return upstream


def load_trained_upstream(train_config: str | Path, model_file: str | Path) -> SpeechUpstream:
    """Build the upstream of any ESPnet model with the plugin and load its weights.

    Raises:
        HJPruneError: a file is missing, or weights do not fit.
    """
    config = read_config(train_config)
    return build_upstream(config, train_config, read_weights(model_file), model_file).eval()


def load(model_dir: str | Path) -> SpeechEncoder:
    """Load the encoder of a compact model without ESPnet, s3prl or the original checkpoint.

    Args:
        model_dir: directory with ``config.yaml`` and ``model.pth`` (or the best weights of a
            training), as :func:`save`, the compaction, and ESPnet's trainings write it.

    Returns:
        The encoder in evaluation mode: ``encoder(wave, lengths)`` takes ``(batch, samples)`` at
        16 kHz and returns its states, each ``(batch, time, width)``, and the valid frames
        ``(batch,)``.

    Raises:
        HJPruneError: a file is missing, the model has gates, or weights do not fit.

    Example:
        >>> encoder = load("exp/asr_compact")
        >>> states, frames = encoder(torch.randn(1, 16000), torch.tensor([16000]))
        >>> features = states[-1]
    """
    directory = Path(model_dir)
    config = read_compact_config(directory)
    weights = find_weights(directory)
    state = read_weights(weights)
    return build_upstream(config, directory / "config.yaml", state, weights).eval().encoder


def save(upstream: SpeechUpstream | SpeechEncoder, model_dir: str | Path) -> None:
    """Write an upstream without gates as a model directory.

    :func:`load` reads its encoder, ``load_upstream("hj_prune_local", model_dir)`` all of it.

    The directory has ``config.yaml``, in ESPnet's form with the whole architecture inline, and
    ``model.pth``. It appears when it is complete, in the place of one that was there.

    Raises:
        HJPruneError: the upstream has gates, or ``model_dir`` holds other files.
    """
    if isinstance(upstream, SpeechEncoder):
        encoder, prefix = upstream, "encoder."
        options = UpstreamOptions(architecture=upstream.config)
    else:
        encoder, options, prefix = upstream.encoder, upstream.options, ""
        if upstream.pruner is not None:
            raise HJPruneError("the upstream has gates; compact it before it is saved")
    target = Path(model_dir)
    if target.is_file():
        raise HJPruneError(f"{target} is a file; give a directory")
    if target.exists() and {file.name for file in target.iterdir()} - {"config.yaml", "model.pth"}:
        raise HJPruneError(f"{target} holds other files than a model; give another directory")
    source = {"architecture": encoder.config.to_dict(), "tile_factor": options.tile_factor}
    conf = {
        "frontend_conf": source,
        "multilayer_feature": options.multilayer_feature,
        "layer": options.layer,
    }
    config = {"frontend": NAME, "frontend_conf": conf}
    with replaced_directory(target) as directory:
        text = yaml.safe_dump(config, sort_keys=False)
        (directory / "config.yaml").write_text(text, encoding="utf-8")
        state = {f"{SAVED_PREFIX}{prefix}{n}": t for n, t in upstream.state_dict().items()}
        torch.save(state, directory / "model.pth")
