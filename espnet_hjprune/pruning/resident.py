"""Constants that are needed on whatever device the gates are."""

from __future__ import annotations

from typing import Any

import torch

from espnet_hjprune.precision import widest


class Resident:
    """A constant tensor, copied to a device once.

    It is no buffer: the type that a model is cast to, and what is loaded into it, leave it alone.

    Args:
        value: the constant, on the CPU.
    """

    def __init__(self, value: torch.Tensor) -> None:
        self._value = value
        self._copies: dict[torch.device, torch.Tensor] = {}

    def on(self, device: torch.device) -> torch.Tensor:
        """The constant on a device."""
        if device not in self._copies:
            dtype = widest(device) if self._value.is_floating_point() else self._value.dtype
            # What is made in inference mode could not be trained with.
            with torch.inference_mode(False):
                self._copies[device] = self._value.to(device, dtype)
        return self._copies[device]

    def __getstate__(self) -> dict[str, Any]:
        """Without the copies, which may be loaded to another device."""
        return {"_value": self._value, "_copies": {}}
