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
import torch.nn.functional as F
from torch import nn

from espnet_hjprune.errors import HJPruneError
from espnet_hjprune.model.distillation import DistillationConfig
from espnet_hjprune.model.loading import build_upstream, read_weights
from espnet_hjprune.model.model_dir import (
    plugin_option,
    plugin_options,
    upstream_options,
    upstream_path,
)
from espnet_hjprune.model.upstream import SpeechUpstream
from espnet_hjprune.nn.config import EncoderConfig
from espnet_hjprune.nn.encoder import SpeechEncoder
from espnet_hjprune.pruning.cost import config_counts, encoder_costs
from espnet_hjprune.pruning.pruner import Pruner
from espnet_hjprune.pruning.slicing import compact_encoder

# Options of a configuration that make up the model, beside the classes that the task lets choose.
MODEL_OPTIONS = (
    "model",
    "input_size",
    "encoder_conf",
    "ctc_conf",
    "joint_net_conf",
    "joint_network_conf",
)
# Options that shape the model too, but hold those of the loss as well; they are taken over where
# the new training does not set them.
SHARED_OPTIONS = (
    "model_conf",
    "asr_model_conf",
    "st_model_conf",
    "diar_model_conf",
    "enh_model_conf",
    "enh_criterions",
    "subtask_series",
    "losses",
    "num_spk",
    "spk_num",
    "diar_num_spk",
    "token_list",
    "src_token_list",
)
# Parts of a model that may be there when linear layers alone read the features.
PLAIN_PARTS = {"frontend", "normalize", "preencoder", "encoder", "decoder", "ctc"}
# Options with a `_conf` that do not make up the model: optimisation, and what happens to the data.
TRAINING_PARTS = re.compile(
    r"(optim|scheduler)\d*|exclude_weight_decay|adapter|(\w+_)?specaug|preprocessor"
)
# The model that a task builds where the configuration does not choose one, if not `espnet`.
DEFAULT_MODELS = {"hubert": "fairseq", "mt": "mt", "s2t_ctc": "espnet_ctc"}


@dataclass
class CompactModel:
    """Result of a compaction.

    Attributes:
        config: ESPnet configuration, with the architecture inline.
        state: weights of the ESPnet model.
        summary: what ``summary.json`` holds.
    """

    config: dict[str, Any]
    state: dict[str, torch.Tensor]
    summary: dict[str, Any]


@dataclass
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
    config = copy.deepcopy(dict(config))
    source = "the training configuration"
    if not plugin_options(config, source).get("pruning"):
        raise HJPruneError(
            "the training configuration has no pruning options; compaction needs a model that "
            "was trained with gates"
        )
    state = read_weights(model_file)
    upstream = build_upstream(config, source, state, model_file).eval()
    return GatedModel(config, state, upstream_path(state), upstream)


def is_model_option(name: str, config: Mapping[str, Any]) -> bool:
    """Whether an option makes up the model, of whatever task.

    A part of the model is named by one option, and has its own options under that name with
    ``_conf``; so do the optimiser and what happens to the data in training.
    """
    part = name.removesuffix("_conf")
    if name in SHARED_OPTIONS or TRAINING_PARTS.fullmatch(part):
        return False
    return name in MODEL_OPTIONS or (part in config and f"{part}_conf" in config)


def linear_readers(model: GatedModel) -> list[str] | None:
    """Linear layers that alone read the features of the upstream.

    Returns:
        Their module paths;
        ``None`` when something else reads them too, which then needs the full width.
    """
    config, path = model.config, model.path
    parts = {name.split(".")[0] for name in model.state}
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
    model: GatedModel, waves: Sequence[torch.Tensor], task: str = "asr"
) -> CompactModel:
    """Remove closed units from the upstream and from what reads it.

    Linear readers are sliced; for any other reader the compact upstream scatters its features
    to the full width, with zeros at the closed positions.

    Args:
        model: gated model; it is not changed.
        waves: utterances ``(samples,)`` on which the two models are compared.
        task: its ESPnet task.

    Raises:
        HJPruneError: the target ramp has not finished, or the model gives other outputs.
    """
    upstream, path = model.upstream, model.path
    pruner = upstream.pruner
    if pruner is None:
        raise ValueError("the upstream has no gates")
    if pruner.constraint.mixes_targets:
        raise HJPruneError(
            "the model is an average over epochs of which some had another target or were saved "
            "before the target finished rising; compact the last epoch"
        )
    if not pruner.constraint.is_on_target:
        steps = int(pruner.constraint.num_steps)
        raise HJPruneError(
            f"the model was saved in optimiser step {steps}, before the target finished rising in "
            f"step {pruner.constraint.schedule.next_level(steps)}; compact a later epoch"
        )
    encoder, kept = compact_encoder(upstream.encoder, pruner.evaluation_gates())
    state = dict(model.state)
    readers = linear_readers(model)
    # A model that scatters its output already goes on doing so.
    scatters = encoder.config.output_positions is not None
    if scatters:
        readers = None
    if len(kept) < upstream.config.hidden_size and not scatters:
        if readers is None:
            encoder.config.output_width = upstream.config.output_size
            encoder.config.output_positions = kept
        else:
            for reader in readers:
                state[f"{reader}.weight"] = state[f"{reader}.weight"][:, kept].contiguous()
    state = {
        name: tensor
        for name, tensor in state.items()
        if not name.startswith((f"{path}.encoder.", f"{path}.pruner."))
    }
    state |= {f"{path}.encoder.{name}": tensor for name, tensor in encoder.state_dict().items()}
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
    return CompactModel(config, state, summary)


def compact_config(
    config: Mapping[str, Any], architecture: EncoderConfig, task: str = "asr"
) -> dict[str, Any]:
    """The gated model's configuration with the compact architecture and without gates."""
    new = copy.deepcopy(dict(config))
    source = "the training configuration"
    for name in ("pruning", "distillation"):
        plugin_options(new, source).pop(name, None)
    options = upstream_options(new, source)
    for name in ("upstream", "path_or_url"):
        options.pop(name, None)
    options["architecture"] = architecture.to_dict()
    if new.get("model") == "hj_prune":
        new["model"] = DEFAULT_MODELS.get(task, "espnet")
    new["init_param"] = []
    return new


def unpruned_model(gated: Mapping[str, Any]) -> str | None:
    """Weights of the whole model that a pruning started from, by its configuration."""
    whole = [entry for entry in gated.get("init_param") or [] if ":" not in entry]
    return whole[0] if len(whole) == 1 else None


def finetune_config(
    compact: Mapping[str, Any], base: Mapping[str, Any], unpruned: str | None = None
) -> dict[str, Any]:
    """Training configuration ``base`` for the model of configuration ``compact``.

    Everything that makes up the model comes from ``compact``, what belongs to the model and to
    its loss where ``base`` does not set it; dropout, masking and distillation of the upstream, and
    all other options, come from ``base``. The teacher of a distillation that names none is
    ``unpruned``.

    Raises:
        HJPruneError: the options of the distillation are wrong.
    """
    new = copy.deepcopy(dict(base))
    for name in compact:
        if is_model_option(name, compact):
            new[name] = copy.deepcopy(compact[name])
    for name in SHARED_OPTIONS:
        if name in compact:
            new.setdefault(name, copy.deepcopy(compact[name]))
    conf = plugin_option(new, "the compact model") + "_conf"
    for name in ("dropout", "masking", "distillation"):
        new[conf].pop(name, None)
        if name in (base.get(conf) or {}):
            new[conf][name] = copy.deepcopy(base[conf][name])
    distillation = new[conf].get("distillation")
    if distillation is not None:
        DistillationConfig.from_dict(distillation)
        if not distillation.get("teacher"):
            distillation["teacher"] = unpruned
    return new


def summarise(pruner: Pruner, encoder: SpeechEncoder) -> dict[str, Any]:
    """Costs before and after, per-layer sizes and sparsities; what ``summary.json`` holds."""
    options = pruner.options
    dense = pruner.dense_config
    with torch.no_grad():
        expected_counts = pruner.gates.expected_counts()
        expected_sparsity = pruner.expected_sparsity()
    counts = config_counts(encoder.config)

    constraints = []
    measured = pruner.current_measures()
    for index, measure in enumerate(measured):
        actual = measure.cost(encoder.config, counts)
        constraints.append(
            {
                "name": measure.name,
                "kind": measure.kind,
                "dense": measure.dense,
                "target_sparsity": measure.target,
                "target": round((1 - measure.target) * measure.dense),
                "actual": actual,
                "sparsity": {
                    "expected": float(expected_sparsity[index]),
                    "actual": 1 - actual / measure.dense,
                },
            }
        )
    actual = encoder_costs(encoder.config, counts, options.samples)
    counted = sum(parameter.numel() for parameter in encoder.parameters())
    if counted != actual["params"]:
        raise AssertionError(f"counted {actual['params']} parameters, but there are {counted}")
    total = {
        key: sum(constraint[key] for constraint in constraints)
        for key in ("dense", "target", "actual")
    }
    expected_total = sum(c["sparsity"]["expected"] * c["dense"] for c in constraints)
    return {
        "criterion": options.criterion,
        "target_sparsity": (
            {measure.name: measure.target for measure in measured}
            if options.criterion == "sepsize"
            else measured[0].target
        ),
        "units": options.units,
        "seconds": options.seconds,
        "dense": encoder_costs(dense, None, options.samples),
        "target": {constraints[0]["kind"]: total["target"]},
        "expected": encoder_costs(pruner.config, expected_counts, options.samples),
        "actual": actual,
        "sparsity": {
            "expected": expected_total / total["dense"],
            "actual": 1 - total["actual"] / total["dense"],
        },
        "constraints": constraints,
        "layers": layer_sizes(encoder.config) | {"dense": layer_sizes(dense)},
    }


def layer_sizes(config: EncoderConfig) -> dict[str, Any]:
    """Units of every layer."""
    counts = config_counts(config)
    return {
        "conv": list(counts.conv),
        "head": list(counts.head),
        "ffn": list(counts.ffn),
        "hidden": counts.hidden,
    }


@torch.no_grad()
def compare(
    gated: SpeechUpstream,
    compact: SpeechUpstream,
    kept: Sequence[int],
    readers: Mapping[str, Sequence[tuple[torch.Tensor, torch.Tensor]]],
    waves: Sequence[torch.Tensor],
) -> dict[str, Any]:
    """Compare gated and compact upstream on utterances alone and in a padded batch.

    Args:
        gated: upstream with gates.
        compact: the smaller one.
        kept: the positions of its features in those of the gated one.
        readers: by name, weight and bias of a linear layer before and after it was sliced.
        waves: utterances ``(samples,)``.

    Returns:
        ``max_abs_diff`` of the upstream's features on valid frames; under ``readers``, for every
        sliced reader, the same of its output and the output's own largest value ``max_abs``.
    """
    worst = 0.0
    outputs = {name: {"max_abs_diff": 0.0, "max_abs": 0.0} for name in readers}
    batches = [list(waves)] + [[wave] for wave in waves]
    for batch in batches:
        padded = nn.utils.rnn.pad_sequence(batch, batch_first=True)
        lengths = torch.tensor([len(wave) for wave in batch])
        full, frames = gated(padded, lengths)
        small, small_frames = compact(padded, lengths)
        if not torch.equal(frames, small_frames):
            raise AssertionError("the compact model gives another number of frames")
        inside = torch.arange(full.shape[1]) < frames.unsqueeze(1)
        narrow = full if full.shape == small.shape else full[..., list(kept)]
        worst = max(worst, (narrow - small)[inside].abs().max().item())
        for name, found in outputs.items():
            before, after = readers[name]
            expected = F.linear(full, *before)[inside]
            difference = (expected - F.linear(small, *after)[inside]).abs().max().item()
            found["max_abs_diff"] = max(found["max_abs_diff"], difference)
            found["max_abs"] = max(found["max_abs"], expected.abs().max().item())
    return {"max_abs_diff": worst, "readers": outputs}
