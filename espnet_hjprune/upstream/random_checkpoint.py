"""Randomly initialised upstream checkpoints in each family's own format on disk."""

from __future__ import annotations

from pathlib import Path

import torch

from espnet_hjprune.errors import HJPruneError
from espnet_hjprune.nn.config import EncoderConfig
from espnet_hjprune.upstream.families import FORMS


def save_random_checkpoint(
    config: EncoderConfig, form: str, path: str | Path, seed: int = 0, spread: float = 0.0
) -> None:
    """Let s3prl (or transformers) initialise a model and save it as the family's are published.

    Args:
        config: a dense architecture of the family.
        form: a key of ``families.FORMS``, such as ``hubert`` or ``hf_hubert``.
        path: checkpoint file, or directory for the ``hf_`` forms; it appears when complete.
        seed: seed of the initial weights.
        spread: standard deviation of what is added to vectors (biases and the affines of norms),
            which start at constants otherwise.

    Raises:
        HJPruneError: an unknown form, or sizes that the family does not have.
    """
    if form not in FORMS:
        raise HJPruneError(f"--family {form} is unknown; it is one of {', '.join(FORMS)}")
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model, save = FORMS[form].random_model(config)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.dim() == 1:
                    parameter.add_(spread * torch.randn_like(parameter))
    save(path)
