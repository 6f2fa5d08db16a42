"""Noise for the gates that all processes of a distributed training share."""

from __future__ import annotations

import numpy as np
import torch


class SharedNoise:
    """A source of random numbers that depends on how far the training is, on nothing else.

    Processes with the same seed draw the same gates, as one process would on the whole batch,
    whatever else they draw (dropout, masks). A resumed training goes on with other noise than it
    began with.
    """

    def __init__(self) -> None:
        self._seed: int | None = None
        self._start = 0
        self._draws = 0

    def generator(self, device: torch.device, num_steps: torch.Tensor) -> torch.Generator:
        """The source of the next draw.

        Args:
            device: where the numbers are needed.
            num_steps: optimiser steps so far; read when torch's seed has been set anew only,
                because reading it waits for the GPU.
        """
        seed = torch.initial_seed()
        if seed != self._seed:
            self._seed, self._start, self._draws = seed, int(num_steps), 0
        self._draws += 1
        mixed = np.random.SeedSequence([seed, self._start, self._draws])
        return torch.Generator(device).manual_seed(int(mixed.generate_state(1, np.uint64)[0]))
