"""Constants that are needed on whatever device the gates are."""

from __future__ import annotations

import torch


class Resident:
    """A constant tensor, copied to a device once.

    It is no buffer: the type that a model is cast to, and what is loaded into it, leave it alone.
    """

    def __init__(self, value: torch.Tensor) -> None:
        self._copies = {value.device: value}

    def on(self, device: torch.device) -> torch.Tensor:
        """The constant on a device."""
        if device not in self._copies:
            value = next(iter(self._copies.values()))
            dtype = widest(device) if value.is_floating_point() else value.dtype
            self._copies[device] = value.to(device, dtype)
        return self._copies[device]


def widest(device: torch.device) -> torch.dtype:
    """The widest floating point type of a device."""
    return torch.float32 if device.type == "mps" else torch.float64
