"""Reading encoders from ESPnet model directories, without ESPnet."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from espnet_hjprune.config_file import read_config
from espnet_hjprune.errors import HJPruneError
from espnet_hjprune.nn.config import EncoderConfig
from espnet_hjprune.nn.encoder import SpeechEncoder

NAME = "hj_prune"
# Where the upstream's weights stand in a model, whatever the plugin's part of it is called.
WEIGHT = re.compile(r"(?:.*\.)?(?:frontend|encoder)\.core\.(.*)")


def plugin_option(config: dict[str, Any], source: str | Path) -> str:
    """Option of a configuration that names the plugin.

    Returns:
        ``frontend`` or ``encoder``, or that of a model's part, such as ``asr_encoder``.

    Raises:
        HJPruneError: it does not use the plugin.
    """
    for option, value in config.items():
        if value == NAME and option.endswith(("frontend", "encoder")):
            return option
    raise HJPruneError(f"{source} has neither frontend: hj_prune nor encoder: hj_prune")


def plugin_options(config: dict[str, Any], source: str | Path) -> dict[str, Any]:
    """The plugin's options in a configuration, by reference."""
    return config[plugin_option(config, source) + "_conf"]


def upstream_options(config: dict[str, Any], source: str | Path) -> dict[str, Any]:
    """The options ``upstream``, ``path_or_url`` and ``architecture``, by reference."""
    is_frontend = plugin_option(config, source).endswith("frontend")
    return plugin_options(config, source)["frontend_conf" if is_frontend else "upstream_conf"]


def read_architecture(path: str | Path) -> EncoderConfig:
    """Architecture that a model's ``config.yaml`` describes.

    Raises:
        HJPruneError: the file is missing, or does not hold an architecture.
    """
    architecture = upstream_options(read_config(path), path).get("architecture")
    if not architecture:
        raise HJPruneError(f"{path} does not describe an architecture; was the model trained?")
    return EncoderConfig.from_dict(architecture)


def upstream_weights(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Weights of the upstream within those of a model, by the names that they have in it."""
    return {match[1]: tensor for name, tensor in state.items() if (match := WEIGHT.fullmatch(name))}


def upstream_path(state: Mapping[str, torch.Tensor]) -> str:
    """Where the upstream stands within the weights of a model, such as ``frontend.core``."""
    name, inner = next((name, match[1]) for name in state if (match := WEIGHT.fullmatch(name)))
    return name.removesuffix(f".{inner}")


def find_weights(directory: Path) -> Path:
    """The weights in a model directory: ``model.pth``, or the best ones of a training.

    Raises:
        HJPruneError: there are none.
    """
    files = [
        directory / "model.pth",
        *sorted(directory.glob("valid.*.best.pth")),
        *sorted(directory.glob("valid.*.ave.pth")),
    ]
    weights = next((file for file in files if file.is_file()), None)
    if weights is None:
        raise HJPruneError(f"{directory} has neither model.pth nor valid.*.best.pth")
    return weights


def load_encoder(model_dir: str | Path) -> SpeechEncoder:
    """Build the encoder of ``model_dir`` and load its weights.

    Raises:
        HJPruneError: a file is missing, the model has gates, or weights do not fit.
    """
    directory = Path(model_dir)
    config_file = directory / "config.yaml"
    config = read_config(config_file)
    if plugin_options(config, config_file).get("pruning"):
        raise HJPruneError(
            f"{directory} holds a model with gates; compact it with espnet_hjprune.bin.compact"
        )
    weights = find_weights(directory)
    every = torch.load(weights, map_location="cpu", weights_only=True)
    state = {
        name.removeprefix("encoder."): tensor
        for name, tensor in upstream_weights(every).items()
        if name.startswith("encoder.")
    }
    encoder = SpeechEncoder(read_architecture(config_file))
    try:
        encoder.load_state_dict(state)
    except RuntimeError as error:
        raise HJPruneError(
            f"the weights in {weights} do not fit the architecture in {config_file}"
        ) from error
    return encoder.eval()
