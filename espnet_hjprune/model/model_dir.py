"""What a model directory holds: ``config.yaml`` in ESPnet's form, and weights.

Weights are read by :func:`read_weights`, whoever asks.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from espnet_hjprune.checkpoint_file import read_checkpoint
from espnet_hjprune.config_file import read_config
from espnet_hjprune.errors import HJPruneError
from espnet_hjprune.model.espnet_config import plugin_options, read_architecture
from espnet_hjprune.model.upstream_options import OWN_NAME
from espnet_hjprune.nn.config import EncoderConfig

# Where the upstream's weights stand in a model, whatever the plugin's part of it is called.
WEIGHT = re.compile(r"(?:.*\.)?(?:frontend|encoder)\.core\.(.*)")
# What can be done about a model file that holds more than weights; none is ever trusted.
SAVE_WEIGHTS = "save its weights alone, with torch.save(model.state_dict(), file)"


def upstream_weights(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Weights of the upstream within those of a model, by the names that they have in it."""
    return {match[1]: tensor for name, tensor in state.items() if (match := WEIGHT.fullmatch(name))}


def upstream_path(state: Mapping[str, torch.Tensor]) -> str:
    """Where the upstream stands within the weights of a model, such as ``frontend.core``."""
    name, inner = next((name, match[1]) for name in state if (match := WEIGHT.fullmatch(name)))
    return name.removesuffix(f".{inner}")


def find_weights(directory: Path) -> Path:
    """The weights in a model directory: ``model.pth``, or the best ones of a training.

    The best ones are those of the first criterion that its ``config.yaml`` has, if it has one.

    Raises:
        HJPruneError: there are none.
    """
    config = directory / "config.yaml"
    criteria = read_config(config).get("best_model_criterion") if config.is_file() else None
    named = [f"{phase}.{key}" for phase, key, *_ in (criteria or [])]
    files = [directory / "model.pth"]
    files += [directory / f"{name}.{kind}.pth" for name in named for kind in ("best", "ave")]
    for phase in ("valid", "train"):
        files += sorted(directory.glob(f"{phase}.*.best.pth"))
        files += sorted(directory.glob(f"{phase}.*.ave.pth"))
    weights = next((file for file in files if file.is_file()), None)
    if weights is None:
        raise HJPruneError(
            f"{directory} has neither model.pth nor the best weights of a training, such as "
            "valid.loss.best.pth"
        )
    return weights


def read_weights(model_file: str | Path) -> dict[str, torch.Tensor]:
    """Read all weights of a model, also out of a checkpoint of Lightning; nothing is executed.

    Raises:
        HJPruneError: the file is missing, or holds something else or more than data.
    """
    if not Path(model_file).is_file():
        raise HJPruneError(f"the model file {model_file} does not exist")
    try:
        state = read_checkpoint(model_file, SAVE_WEIGHTS)
        if "state_dict" in state:
            state = {n.removeprefix("model."): t for n, t in state["state_dict"].items()}
        return {name: tensor for name, tensor in state.items() if torch.is_tensor(tensor)}
    except HJPruneError:
        raise
    except Exception as error:
        raise HJPruneError(
            f"{model_file} is no file of weights ({' '.join(str(error).split())[:200]})"
        ) from error


def model_directory(path: str | None) -> Path:
    """The directory of an upstream :data:`OWN_NAME`.

    Raises:
        HJPruneError: none is given, or there is no model.
    """
    if not path:
        raise HJPruneError(
            f"the upstream {OWN_NAME} needs a model directory; give its path (--upstream_ckpt DIR "
            "in a recipe)"
        )
    directory = Path(path)
    if not (directory / "config.yaml").is_file():
        raise HJPruneError(
            f"{path} is no model directory, as it has no config.yaml; the upstream {OWN_NAME} "
            "takes what compaction, fine-tuning or espnet_hjprune.save have written"
        )
    return directory


def read_compact_config(directory: Path) -> dict[str, Any]:
    """The configuration of a model without gates.

    Raises:
        HJPruneError: the file is missing, or the model has gates.
    """
    file = directory / "config.yaml"
    config = read_config(file)
    if plugin_options(config, file).get("pruning"):
        raise HJPruneError(
            f"{directory} holds a model with gates; compact it with espnet_hjprune.bin.compact"
        )
    return config


def read_encoder(path: str | None) -> tuple[EncoderConfig, dict[str, torch.Tensor]]:
    """The encoder of a model directory, of whatever task, as a source to start from.

    Returns:
        Its architecture, and its weights.

    Raises:
        HJPruneError: there is no such directory, the model has gates, or it does not have its
            architecture inline, as it was never compacted.
    """
    directory = model_directory(path)
    read_compact_config(directory)
    config = read_architecture(directory / "config.yaml")
    weights = upstream_weights(read_weights(find_weights(directory)))
    prefix = "encoder."
    return config, {
        name.removeprefix(prefix): tensor
        for name, tensor in weights.items()
        if name.startswith(prefix)
    }
