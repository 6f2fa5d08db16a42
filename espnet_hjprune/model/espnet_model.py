"""Turn a trained ESPnet model with gates into a smaller ESPnet model without.

Works on configuration and weights: importing a task of ESPnet takes longer than the compaction.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from espnet_hjprune.errors import HJPruneError
from espnet_hjprune.model.compaction import check_gates, compare
from espnet_hjprune.model.espnet_config import UNLABELLED, compact_config, plugin_options
from espnet_hjprune.model.loading import build_upstream
from espnet_hjprune.model.model_dir import read_weights, upstream_path
from espnet_hjprune.model.summary import summarise
from espnet_hjprune.model.upstream import SpeechUpstream
from espnet_hjprune.nn.config import EncoderConfig
from espnet_hjprune.nn.encoder import SpeechEncoder
from espnet_hjprune.pruning.slicing import compact_encoder

# Weights of the projections of a model that learns without labels.
PROJECTION = re.compile(r"teaching\.projections\.\d+\.weight")
# Parts of a model that may be there when linear layers alone read the features.
PLAIN_PARTS = {"frontend", "normalize", "preencoder", "encoder", "decoder", "ctc"}


@dataclass(frozen=True)
class CompactModel:
    """Result of a compaction.

    Attributes:
        config: ESPnet configuration, with the architecture inline.
        state: weights of the ESPnet model.
        summary: what ``summary.json`` holds.
        architecture: of the compact encoder.
    """

    config: dict[str, Any]
    state: dict[str, torch.Tensor]
    summary: dict[str, Any]
    architecture: EncoderConfig


@dataclass(frozen=True)
class GatedModel:
    """A trained model with gates, of whatever task.

    Attributes:
        config: its ESPnet configuration.
        state: all of its weights.
        path: where the upstream stands in it, such as ``frontend.core``.
        upstream: the upstream with its gates.
    """

    config: dict[str, Any]
    state: dict[str, torch.Tensor]
    path: str
    upstream: SpeechUpstream


def load_gated_model(config: Mapping[str, Any], model_file: str | Path) -> GatedModel:
    """Read a gated model; of its parts only the upstream is built, in evaluation mode.

    Raises:
        HJPruneError: there are no gates, the file is missing, or its weights do not fit.
    """
    own = copy.deepcopy(dict(config))
    source = "the training configuration"
    if not plugin_options(own, source).get("pruning"):
        raise HJPruneError(
            "the training configuration has no pruning options; compaction needs a model that "
            "was trained with gates"
        )
    state = read_weights(model_file)
    upstream = build_upstream(own, source, state, model_file).eval()
    return GatedModel(own, state, upstream_path(state), upstream)


def linear_readers(model: GatedModel) -> list[str] | None:
    """Linear layers that alone read the features of the upstream.

    Returns:
        Their module paths; ``None`` when something else reads them too, which then needs the full
        width.
    """
    config, path = model.config, model.path
    parts = {name.split(".")[0] for name in model.state}
    if config.get("model") == UNLABELLED:
        # Nothing does; what is learned are the hidden states.
        return []
    if not parts <= PLAIN_PARTS:
        return None
    if path == "frontend.core":
        if config.get("specaug") or config.get("normalize"):
            return None
        if config.get("preencoder") == "linear":
            return ["preencoder.linear_out"]
        if config.get("preencoder") or config.get("encoder"):
            return None
    readers = []
    if "decoder" in parts:
        if config.get("decoder") != "linear_decoder":
            return None
        readers.append("decoder.linear_out")
    if "ctc" in parts:
        readers.append("ctc.ctc_lo")
    return readers or None


def compact_model(
    model: GatedModel,
    waves: Sequence[torch.Tensor],
    task: str = "asr",
    allow_off_target: bool = False,
) -> CompactModel:
    """Remove closed units from the upstream and from what reads it.

    Linear readers are sliced; for any other reader the compact upstream scatters its features
    to the full width, with zeros at the closed positions.

    Args:
        model: gated model; it is not changed.
        waves: utterances ``(samples,)`` on which the two models are compared.
        task: its ESPnet task.
        allow_off_target: compact gates that are far from their target too.

    Raises:
        HJPruneError: the target has not finished rising, the gates are far from it, or the compact
            model gives other outputs.
    """
    upstream, path = model.upstream, model.path
    pruner = upstream.pruner
    if pruner is None:
        raise ValueError("the upstream has no gates")
    check_gates(pruner, allow_off_target)
    readers = linear_readers(model)
    encoder, kept = compact_encoder(
        upstream.encoder, pruner.evaluation_gates(), scatter=readers is None
    )
    if encoder.config.output_positions is not None:
        # A model that scatters its output already goes on doing so.
        readers = None
    state = dict(model.state)
    if len(kept) < upstream.config.hidden_size:
        for reader in readers or []:
            state[f"{reader}.weight"] = state[f"{reader}.weight"][:, kept].contiguous()
    state = {
        name: tensor
        for name, tensor in state.items()
        if not name.startswith((f"{path}.encoder.", f"{path}.pruner."))
    }
    state |= {f"{path}.encoder.{name}": tensor for name, tensor in encoder.state_dict().items()}
    if model.config.get("model") == UNLABELLED:
        state = _with_sliced_projections(state, upstream, encoder)
    config = compact_config(model.config, encoder.config, task)
    if "preencoder.linear_out" in (readers or []):
        config["preencoder_conf"]["input_size"] = encoder.output_size
    rebuilt = build_upstream(config, "the compact model", state, "the compact model").eval()
    layers = {
        name: [(s[f"{name}.weight"], s[f"{name}.bias"]) for s in (model.state, state)]
        for name in readers or []
    }
    summary = summarise(pruner, rebuilt.encoder)
    summary |= compare(upstream, rebuilt, kept, layers, waves)
    return CompactModel(config, state, summary, rebuilt.encoder.config)


def _with_sliced_projections(
    state: Mapping[str, torch.Tensor], before: SpeechUpstream, after: SpeechEncoder
) -> dict[str, torch.Tensor]:
    """Weights whose projections to a teacher's states read the hidden features that are left."""
    places = {feature: place for place, feature in enumerate(before.config.dense_features)}
    kept = [places[feature] for feature in after.config.dense_features]
    return {
        name: tensor[:, kept].contiguous() if PROJECTION.fullmatch(name) else tensor
        for name, tensor in state.items()
    }
