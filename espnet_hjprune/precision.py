"""The type in which models run where nothing is trained."""

from __future__ import annotations

import torch


def inference_dtype(device: torch.device) -> torch.dtype:
    """``float32`` on a CPU; on a GPU ``bfloat16``, or ``float16`` where that is only emulated."""
    if device.type == "cpu":
        return torch.float32
    native = torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.bfloat16 if native else torch.float16
