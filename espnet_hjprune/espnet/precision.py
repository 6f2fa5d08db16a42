"""Mixed precision as ``use_amp`` of a training asks for it."""

from __future__ import annotations

import functools
import logging
from collections.abc import Mapping
from typing import Any

import torch
from espnet2.train import trainer

from espnet_hjprune.espnet.frontend import HJPruneFrontend
from espnet_hjprune.espnet.losses import find_upstreams


def amp_dtype(options: Mapping[str, Any]) -> torch.dtype | None:
    """The type in which the upstream runs; ``None`` for float32.

    On a GPU it is the type that ESPnet chooses. ESPnet has no mixed precision on a CPU; the plugin
    runs the upstream in bfloat16 on one that has matrix units for it (AMX), where a training step
    takes about half of the time, and in float32 on any other.
    """
    if not options.get("use_amp"):
        return None
    if not options.get("ngpu"):
        return torch.bfloat16 if torch.cpu._is_amx_tile_supported() else None
    return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16


def use_mixed_precision(options: Mapping[str, Any], model: torch.nn.Module) -> None:
    """Let a model's frontends follow ``use_amp``, which ESPnet turns off around most of them."""
    dtype = amp_dtype(options)
    for module in model.modules():
        if isinstance(module, HJPruneFrontend):
            module.amp_dtype = dtype
            if options.get("use_amp"):
                logging.info("use_amp: the upstream computes in %s", dtype or torch.float32)


def scale_gradients_in_float16(options: Mapping[str, Any], model: torch.nn.Module) -> None:
    """Let the trainer of an ``hj_prune`` model scale gradients in float16 only.

    ESPnet scales them in bfloat16 too, which has the range of float32: for nothing, and at the cost
    of a wait for the GPU in every step.
    """
    dtype = amp_dtype(options)
    if options.get("ngpu") and dtype is not None and find_upstreams(model):
        enabled = dtype == torch.float16
        trainer.GradScaler = functools.partial(torch.amp.GradScaler, "cuda", enabled=enabled)
