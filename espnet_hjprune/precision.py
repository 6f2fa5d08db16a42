"""Types that depend on the device."""

from __future__ import annotations

import torch


def inference_dtype(device: torch.device) -> torch.dtype:
    """Where nothing is trained: on a GPU ``bfloat16``, or ``float16`` where that is only emulated.

    Elsewhere ``float32``.
    """
    if device.type != "cuda":
        return torch.float32
    native = torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.bfloat16 if native else torch.float16


def widest(device: torch.device) -> torch.dtype:
    """The widest floating point type of a device."""
    return torch.float32 if device.type == "mps" else torch.float64
