"""Randomly initialised upstream checkpoints in s3prl's converted format."""

from __future__ import annotations

from pathlib import Path

import torch

from espnet_hjprune.atomic import replaced_file
from espnet_hjprune.errors import HJPruneError
from espnet_hjprune.nn.config import EncoderConfig
from espnet_hjprune.upstream.fairseq_format import fairseq_from_config

LABELS = [str(number) for number in range(100)]


def save_random_checkpoint(
    config: EncoderConfig, family: str, path: str | Path, seed: int = 0
) -> None:
    """Let s3prl initialise a model of this architecture and save it as s3prl would convert it.

    Args:
        config: a dense architecture.
        family: ``wav2vec2`` or ``hubert``.
        path: checkpoint file; written to a temporary name first.
        seed: seed of the initial weights.

    Raises:
        HJPruneError: another family.
    """
    from s3prl.upstream.hubert.hubert_model import (
        HubertConfig,
        HubertModel,
        HubertPretrainingConfig,
    )
    from s3prl.upstream.wav2vec2.wav2vec2_model import Wav2Vec2Config, Wav2Vec2Model

    model_cfg, task_cfg = fairseq_from_config(config)
    checkpoint: dict[str, object] = {"task_cfg": task_cfg, "model_cfg": model_cfg}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if family == "wav2vec2":
            model_cfg["quantize_targets"] = True
            model = Wav2Vec2Model(Wav2Vec2Config(**model_cfg))
        elif family == "hubert":
            model_cfg["label_rate"] = 50.0
            checkpoint["dictionaries_symbols"] = [LABELS]
            model = HubertModel(
                HubertConfig(**model_cfg), HubertPretrainingConfig(**task_cfg), [LABELS]
            )
        else:
            raise HJPruneError(f"--family {family} is unknown; it is wav2vec2 or hubert")
    checkpoint["model_weight"] = model.state_dict()
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with replaced_file(path) as partial:
        torch.save(checkpoint, partial)
