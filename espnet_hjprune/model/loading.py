"""The upstream of a trained ESPnet model, built from configuration and weights without ESPnet."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from espnet_hjprune.errors import HJPruneError
from espnet_hjprune.model.model_dir import plugin_option, plugin_options, upstream_weights
from espnet_hjprune.model.upstream import SpeechUpstream


def read_weights(model_file: str | Path) -> dict[str, torch.Tensor]:
    """Read all weights of a model, also out of a checkpoint of Lightning.

    Raises:
        HJPruneError: the file is missing or holds something else.
    """
    if not Path(model_file).is_file():
        raise HJPruneError(f"the model file {model_file} does not exist")
    try:
        only = Path(model_file).suffix != ".ckpt"
        state = torch.load(model_file, map_location="cpu", weights_only=only)
        if "state_dict" in state:
            state = {n.removeprefix("model."): t for n, t in state["state_dict"].items()}
        return {name: tensor for name, tensor in state.items() if torch.is_tensor(tensor)}
    except Exception as error:
        raise HJPruneError(
            f"{model_file} is no file of weights ({' '.join(str(error).split())[:200]})"
        ) from error


def build_upstream(
    config: dict[str, Any],
    source: str | Path,
    state: Mapping[str, torch.Tensor],
    model_file: str | Path,
) -> SpeechUpstream:
    """Build the upstream of an ESPnet configuration and load its weights.

    Args:
        config: the configuration.
        source: where it comes from, for messages.
        state: the weights of the whole model.
        model_file: where those come from.

    Raises:
        HJPruneError: the weights do not fit.
    """
    option = plugin_option(config, source)
    conf = dict(plugin_options(config, source))
    conf.pop("fs", None)
    if option.endswith("frontend"):
        conf["upstream_conf"] = conf.pop("frontend_conf", None)
    upstream = SpeechUpstream(**conf)
    try:
        upstream.load_state_dict(upstream_weights(state))
    except RuntimeError as error:
        raise HJPruneError(
            f"{model_file} does not hold the weights of the model that {source} describes "
            f"({' '.join(str(error).split())[:200]})"
        ) from error
    return upstream
