"""Prune the speech encoder of any PyTorch model, here a classifier of tones, in a plain loop.

python3 examples/prune_any_model.py
"""

import torch

import espnet_hjprune as hj

TONES = torch.tensor([250.0, 500.0, 1000.0, 2000.0])  # Hz
upstream = hj.random_upstream("wav2vec2_mini")  # yours: hj.load_upstream("wav2vec2_base_960")
head = torch.nn.Linear(upstream.output_size(), len(TONES))
model = torch.nn.ModuleDict({"upstream": upstream, "head": head})

# A short training: fast gates, and damping against the swing of the multipliers.
rates = {"gate_lr": 0.1, "lambda_lr": 0.05, "damping": 200}
pruner = upstream.add_gates(hj.PruningConfig(target_sparsity=0.4, ramp_steps=50, **rates))
optimizer = torch.optim.AdamW(model.parameters(), lr=3e-4)
hj.attach(pruner, optimizer)
for _ in range(150):
    label = torch.randint(len(TONES), (4,))
    wave = torch.sin(6.28 * TONES[label, None] * torch.arange(3200) / 16000)
    features, frames = upstream(wave + 0.1 * torch.randn(4, 3200), torch.full((4,), 3200))
    task_loss = torch.nn.functional.cross_entropy(head(features.mean(1)), label)
    (task_loss + pruner.regularise()[0]).backward()
    optimizer.step()
    optimizer.zero_grad()

result = hj.compact(upstream)
model["upstream"] = result.upstream  # exact; fine-tune it with a new optimiser
print(f"{result.summary['sparsity']['actual']:.2%} of the MACs are removed")
hj.save(result.upstream, "compact")  # hj.load("compact") needs neither ESPnet nor s3prl
