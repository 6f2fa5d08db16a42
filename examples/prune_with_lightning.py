"""Prune the speech encoder of a Lightning module, here a classifier of tones.

python3 examples/prune_with_lightning.py
"""

from typing import Any

import lightning
import torch

import espnet_hjprune as hj

TONES = torch.tensor([250.0, 500.0, 1000.0, 2000.0])  # Hz
STEPS = 150


class Tones(torch.utils.data.Dataset):
    """Noisy tones of 0.2 s with their numbers."""

    def __len__(self) -> int:
        return 4 * STEPS

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        label = index % len(TONES)
        wave = torch.sin(6.28 * TONES[label] * torch.arange(3200) / 16000)
        return wave + 0.1 * torch.randn(3200), label


class ToneClassifier(lightning.LightningModule):
    """Upstream with gates, mean over time, linear layer."""

    def __init__(self, upstream: hj.SpeechUpstream) -> None:
        super().__init__()
        self.upstream = upstream
        self.head = torch.nn.Linear(upstream.output_size(), len(TONES))

    def training_step(self, batch: Any, index: int) -> torch.Tensor:
        wave, label = batch
        features, _ = self.upstream(wave, torch.full((len(wave),), wave.shape[1]))
        loss = torch.nn.functional.cross_entropy(self.head(features.mean(1)), label)
        constraint, figures = self.upstream.pruner.regularise()
        self.log_dict({"task_loss": loss, **figures})
        return loss + constraint

    def configure_optimizers(self) -> torch.optim.Optimizer:
        optimizer = torch.optim.AdamW(self.parameters(), lr=3e-4)
        hj.attach(self.upstream.pruner, optimizer)  # before a scheduler is made
        return optimizer


lightning.seed_everything(0)
upstream = hj.random_upstream("wav2vec2_mini")
rates = {"gate_lr": 0.1, "lambda_lr": 0.05, "damping": 200}
upstream.add_gates(hj.PruningConfig(target_sparsity=0.4, ramp_steps=50, **rates))
model = ToneClassifier(upstream)
batches = torch.utils.data.DataLoader(Tones(), batch_size=4)
trainer = lightning.Trainer(max_epochs=1, logger=False, enable_checkpointing=False)
trainer.fit(model, batches)

result = hj.compact(model.upstream)
model.upstream = result.upstream
print(f"{result.summary['sparsity']['actual']:.2%} of the MACs are removed")
