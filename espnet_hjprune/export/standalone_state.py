"""Weights and sizes as ``standalone/hj_prune_encoder.py`` has them."""

from __future__ import annotations

from typing import Any

import torch

from espnet_hjprune.nn.encoder import SpeechEncoder
from espnet_hjprune.nn.positional_embedding import PositionalConv
from espnet_hjprune.pruning.measures import pruned_config


def standalone_architecture(encoder: SpeechEncoder) -> dict[str, Any]:
    """The sizes of an encoder as plain data; the weight norm is multiplied in."""
    return pruned_config(encoder.config).to_dict()


def standalone_state(encoder: SpeechEncoder) -> dict[str, torch.Tensor]:
    """The weights of an encoder under the names of the standalone one.

    The weight norm of the positional convolution is multiplied in, and what is left over of
    branches without units is not there.
    """
    state = dict(encoder.state_dict())
    for name, module in encoder.named_modules():
        if isinstance(module, PositionalConv) and module.weight_norm:
            del state[f"{name}.weight_g"], state[f"{name}.weight_v"]
            state[f"{name}.weights.0"] = module.fused_weight().detach()
    for index, heads in enumerate(encoder.config.heads):
        if heads == 0:
            gate = f"transformer.layers.{index}.attention.bias_gate."
            state = {name: tensor for name, tensor in state.items() if not name.startswith(gate)}
    return {name: tensor.contiguous() for name, tensor in state.items() if tensor.numel()}
