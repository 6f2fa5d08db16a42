"""Turn a trained ESPnet model with gates into a smaller ESPnet model without."""

from __future__ import annotations

import argparse
import copy
import importlib
import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from espnet_hjprune.errors import HJPruneError
from espnet_hjprune.espnet.model import find_upstreams
from espnet_hjprune.espnet.startup import import_lazily
from espnet_hjprune.espnet.upstream_module import SpeechUpstream
from espnet_hjprune.model_dir import plugin_option, plugin_options, upstream_options
from espnet_hjprune.nn.config import EncoderConfig
from espnet_hjprune.nn.encoder import SpeechEncoder
from espnet_hjprune.pruning.compact import compact_encoder
from espnet_hjprune.pruning.cost import config_counts, encoder_costs
from espnet_hjprune.pruning.pruner import Pruner

if TYPE_CHECKING:
    from espnet2.tasks.abs_task import AbsTask

# Options of a configuration that make up the model, beside the classes that the task lets choose.
MODEL_OPTIONS = (
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
PLAIN_PARTS = {"frontend", "preencoder", "encoder", "decoder", "ctc"}
# Choices that do not make up the model: what happens to the data in training.
TRAINING_CHOICES = ("specaug", "preprocessor")


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


def task_module(task: str) -> ModuleType:
    """Import ``espnet2.tasks.<task>``.

    Raises:
        HJPruneError: there is no such task.
    """
    import_lazily()
    try:
        return importlib.import_module(f"espnet2.tasks.{task}")
    except ModuleNotFoundError as error:
        raise HJPruneError(f"ESPnet has no task {task}; --task takes asr, slu, st, ...") from error


def task_class(task: ModuleType) -> type[AbsTask]:
    """The task of an ``espnet2.tasks`` module."""
    return next(
        member
        for _, member in inspect.getmembers(task, inspect.isclass)
        if member.__module__ == task.__name__ and hasattr(member, "build_model")
    )


def build_model(task: ModuleType, config: Mapping[str, Any]) -> nn.Module:
    """Build the model that an ESPnet configuration describes."""
    return task_class(task).build_model(argparse.Namespace(**copy.deepcopy(dict(config))))


def model_options(task: ModuleType) -> list[str]:
    """Options of a task that make up the model."""
    names = [choice.name for choice in task_class(task).class_choices_list]
    chosen = [name for name in names if name not in TRAINING_CHOICES]
    options = [*MODEL_OPTIONS, *chosen, *(f"{name}_conf" for name in chosen)]
    return [name for name in options if name not in SHARED_OPTIONS]


def gated_upstream(model: nn.Module) -> tuple[str, SpeechUpstream]:
    """The upstream with gates and its module path."""
    return next(item for item in find_upstreams(model).items() if item[1].pruner is not None)


def load_gated_model(
    task: ModuleType, config: Mapping[str, Any], model_file: str | Path
) -> tuple[nn.Module, SpeechUpstream]:
    """Build a gated model and load all of its weights.

    Raises:
        HJPruneError: there are no gates, the file is missing, or its weights do not fit.
    """
    if not plugin_options(dict(config), "the training configuration").get("pruning"):
        raise HJPruneError(
            "the training configuration has no pruning options; compaction needs a model that "
            "was trained with gates"
        )
    if not Path(model_file).is_file():
        raise HJPruneError(f"the model file {model_file} does not exist")
    model = build_model(task, config).eval()
    try:
        state = torch.load(model_file, map_location="cpu", weights_only=False)
        if "state_dict" in state:
            # A checkpoint of Lightning, which holds the model as a part.
            state = {n.removeprefix("model."): t for n, t in state["state_dict"].items()}
        model.load_state_dict(state)
    except Exception as error:
        raise HJPruneError(
            f"{model_file} does not hold the weights of the model that the training "
            f"configuration describes ({' '.join(str(error).split())[:200]})"
        ) from error
    return model, gated_upstream(model)[1]


def linear_readers(model: nn.Module, upstream: str) -> list[str] | None:
    """Linear layers that alone read the features of the upstream at a module path.

    Returns:
        Their module paths;
        ``None`` when something else reads them too, which then needs the full width.
    """
    from espnet2.asr.decoder.linear_decoder import LinearDecoder
    from espnet2.asr.preencoder.linear import LinearProjection

    def part(name: str) -> nn.Module | None:
        return getattr(model, name, None)

    trained = {
        name for name, child in model.named_children() if any(True for _ in child.parameters())
    }
    if not trained <= PLAIN_PARTS:
        return None
    if upstream == "frontend.core":
        if part("specaug") is not None or part("normalize") is not None:
            return None
        if isinstance(part("preencoder"), LinearProjection):
            return ["preencoder.linear_out"]
        if part("preencoder") is not None or part("encoder") is not None:
            return None
    readers = []
    if isinstance(part("decoder"), LinearDecoder):
        readers.append("decoder.linear_out")
    elif part("decoder") is not None:
        return None
    if part("ctc") is not None:
        readers.append("ctc.ctc_lo")
    return readers or None


def compact_model(
    task: ModuleType,
    model: nn.Module,
    upstream: SpeechUpstream,
    config: Mapping[str, Any],
    waves: Sequence[torch.Tensor],
) -> CompactModel:
    """Remove closed units from the upstream and from what reads it.

    Linear readers are sliced; for any other reader the compact upstream scatters its features
    to the full width, with zeros at the closed positions.

    Args:
        task: the ESPnet task module.
        model: gated model in evaluation mode; it is not changed.
        upstream: its upstream.
        config: its ESPnet configuration.
        waves: utterances ``(samples,)`` on which the two models are compared.

    Raises:
        HJPruneError: the target ramp has not finished, or the model gives other outputs.
    """
    pruner = upstream.pruner
    if pruner is None:
        raise ValueError("the upstream has no gates")
    if pruner.constraint.mixes_targets:
        raise HJPruneError(
            "the model is an average over epochs of which some were saved before the target "
            f"finished rising in step {pruner.constraint.ramp_steps}; compact the last epoch"
        )
    if not pruner.constraint.ramp_finished:
        raise HJPruneError(
            f"the model was saved in optimiser step {int(pruner.constraint.num_steps)}, before "
            f"the target finished rising in step {pruner.constraint.ramp_steps}; compact a later "
            "epoch"
        )
    path = gated_upstream(model)[0]
    encoder, kept = compact_encoder(upstream.encoder, pruner.evaluation_gates())
    state = {name: tensor.detach().cpu() for name, tensor in model.state_dict().items()}
    readers = linear_readers(model, path)
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
                state[f"{reader}.weight"] = state[f"{reader}.weight"][:, kept]
    state = {
        name: tensor
        for name, tensor in state.items()
        if not name.startswith((f"{path}.encoder.", f"{path}.pruner."))
    }
    state |= {f"{path}.encoder.{name}": tensor for name, tensor in encoder.state_dict().items()}
    new_config = compact_config(config, encoder.config, task)
    if "preencoder.linear_out" in (readers or []):
        new_config["preencoder_conf"]["input_size"] = encoder.output_size
    rebuilt = build_model(task, new_config).eval()
    rebuilt.load_state_dict(state)
    new_upstream = find_upstreams(rebuilt)[path]
    summary = summarise(pruner, new_upstream.encoder)
    summary |= compare(model, upstream, rebuilt, new_upstream, kept, readers or [], waves)
    return CompactModel(new_config, state, summary)


def compact_config(
    config: Mapping[str, Any], architecture: EncoderConfig, task: ModuleType
) -> dict[str, Any]:
    """The gated model's configuration with the compact architecture and without gates."""
    new = copy.deepcopy(dict(config))
    source = "the training configuration"
    plugin_options(new, source).pop("pruning")
    options = upstream_options(new, source)
    for name in ("upstream", "path_or_url"):
        options.pop(name, None)
    options["architecture"] = architecture.to_dict()
    if new.get("model") == "hj_prune":
        new["model"] = task.model_choices.default
    new["init_param"] = []
    return new


def finetune_config(
    compact: Mapping[str, Any], base: Mapping[str, Any], task: ModuleType
) -> dict[str, Any]:
    """Training configuration ``base`` for the model of configuration ``compact``.

    Everything that makes up the model comes from ``compact``, what belongs to the model and to
    its loss where ``base`` does not set it; dropout and masking of the upstream, and all other
    options, come from ``base``.
    """
    new = copy.deepcopy(dict(base))
    for name in model_options(task):
        if name in compact:
            new[name] = copy.deepcopy(compact[name])
    for name in SHARED_OPTIONS:
        if name in compact:
            new.setdefault(name, copy.deepcopy(compact[name]))
    conf = plugin_option(new, "the compact model") + "_conf"
    for name in ("dropout", "masking"):
        new[conf].pop(name, None)
        if name in (base.get(conf) or {}):
            new[conf][name] = copy.deepcopy(base[conf][name])
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
    for index, measure in enumerate(pruner.measures):
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
        "target_sparsity": options.target_sparsity,
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
    gated: nn.Module,
    gated_upstream: SpeechUpstream,
    compact: nn.Module,
    compact_upstream: SpeechUpstream,
    kept: Sequence[int],
    readers: Sequence[str],
    waves: Sequence[torch.Tensor],
) -> dict[str, Any]:
    """Compare gated and compact model on utterances alone and in a padded batch.

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
        full, frames = gated_upstream(padded, lengths)
        small, small_frames = compact_upstream(padded, lengths)
        if not torch.equal(frames, small_frames):
            raise AssertionError("the compact model gives another number of frames")
        inside = torch.arange(full.shape[1]) < frames.unsqueeze(1)
        narrow = full if full.shape == small.shape else full[..., list(kept)]
        worst = max(worst, (narrow - small)[inside].abs().max().item())
        for name, found in outputs.items():
            expected = gated.get_submodule(name)(full)[inside]
            actual = compact.get_submodule(name)(small)[inside]
            difference = (expected - actual).abs().max().item()
            found["max_abs_diff"] = max(found["max_abs_diff"], difference)
            found["max_abs"] = max(found["max_abs"], expected.abs().max().item())
    return {"max_abs_diff": worst, "readers": outputs}
