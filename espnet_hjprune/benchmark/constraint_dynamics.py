"""Does the constraint settle on its target? Whole prunings of a tiny model on synthetic tones.

The number of steps, the learning rates, the ramp and the start of the gates are those of the base
model. What is small is the encoder and the audio, so that a step takes some hundredths of a
second. Adam moves gates and multipliers by their learning rates whatever the size of a model is,
so their paths are alike; what the task loss resists with is not, and is varied by its scale.
"""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from espnet_hjprune.atomic import write_text
from espnet_hjprune.constants import SAMPLE_RATE
from espnet_hjprune.drawing import COLOURS, MUTED, STYLE, headline, new_figure, save_figure
from espnet_hjprune.errors import HJPruneError
from espnet_hjprune.markdown import markdown_table
from espnet_hjprune.nn.config import ConvLayerConfig, EncoderConfig, PositionalConfig
from espnet_hjprune.nn.encoder import SpeechEncoder
from espnet_hjprune.progress import progress_bar
from espnet_hjprune.pruning.config import PruningConfig
from espnet_hjprune.pruning.optimizer import GATES, MULTIPLIERS, attach
from espnet_hjprune.pruning.pruner import Pruner
from espnet_hjprune.pruning.rates import pruning_factor, warmup_decay

# Symbols are pairs of tones, of which an utterance has four.
TONES = (500, 800, 1200, 1700, 2400, 3300)
SYMBOLS = [(low, high) for n, low in enumerate(TONES) for high in TONES[n + 1 :]]
SYMBOL_SECONDS, SYMBOLS_PER_UTTERANCE, NOISE = 0.12, 4, 0.3
BATCH = 4
# What a sum over the frames of an utterance of LibriSpeech (14.5 s) has for one frame here.
FRAMES_PER_UTTERANCE = 725
PRETRAINING_STEPS, PRETRAINING_RATE = 3000, 1e-3
# Of the paper's pruning of the base model, in optimiser steps.
PAPER_STEPS, PAPER_WARMUP, PAPER_RAMP = 13380, 3000, 2230
# Between two points of a curve.
RECORDED_STEPS = 30
# What counts as on the target, relative to it.
SETTLED = 0.01


@dataclass(frozen=True)
class Setting:
    """One pruning.

    Attributes:
        damping: of the constraint; 0 in the paper.
        rate: learning rate of gates and multipliers; 0.02 or 0.05 in the paper.
        schedule: of these rates, ``constant`` or ``linear``.
        loss: ``sum`` of the CTC loss over an utterance, as ESPnet has it, or its ``mean`` over the
            frames.
        steps: of the optimiser.
        target: share of the MACs that is removed.
    """

    damping: float
    rate: float
    schedule: str
    loss: str
    steps: int = PAPER_STEPS
    target: float = 0.4

    @property
    def name(self) -> str:
        """Name of the file with its curve."""
        parts = [f"damping{self.damping:g}", f"rate{self.rate:g}", self.schedule, self.loss]
        return "-".join([*parts, f"steps{self.steps}", f"target{self.target:g}"])


@dataclass
class Curve:
    """What a pruning went through, a value for each recorded step.

    Attributes:
        setting: the pruning.
        step: optimiser steps.
        target: scheduled target.
        sparsity: expected sparsity.
        lambda1: first multiplier.
        lambda2: second multiplier.
        loss: mean task loss per frame since the step before.
        initial_loss: the same of the model that is pruned.
    """

    setting: Setting
    step: list[int] = field(default_factory=list)
    target: list[float] = field(default_factory=list)
    sparsity: list[float] = field(default_factory=list)
    lambda1: list[float] = field(default_factory=list)
    lambda2: list[float] = field(default_factory=list)
    loss: list[float] = field(default_factory=list)
    initial_loss: float = 0.0

    @property
    def error(self) -> float:
        """Distance from the target at the end, relative to it."""
        return self.sparsity[-1] / self.target[-1] - 1

    @property
    def overshoot(self) -> float:
        """Largest sparsity beyond the target, relative to the final target."""
        above = (s - t for s, t in zip(self.sparsity, self.target, strict=True))
        return max(0.0, *above) / self.target[-1]

    @property
    def settled(self) -> int | None:
        """Step after which the sparsity stays within 1 % of its final target; ``None``: never."""
        last = self.target[-1]
        away = [n for n, s in enumerate(self.sparsity) if abs(s / last - 1) > SETTLED]
        if not away:
            return self.step[0]
        return self.step[away[-1] + 1] if away[-1] + 1 < len(self.step) else None


def tiny_encoder() -> EncoderConfig:
    """An encoder in the style of the base models, with as many CNN layers and strides."""
    return EncoderConfig(
        conv_layers=[ConvLayerConfig(24, 10, 5)]
        + [ConvLayerConfig(24, 3, 2)] * 4
        + [ConvLayerConfig(24, 2, 2)] * 2,
        hidden_size=48,
        head_dim=12,
        heads=[4] * 2,
        ffn_sizes=[192] * 2,
        positional=PositionalConfig(8, [12] * 4),
        extractor_norm="group",
        conv_bias=False,
        norm_first=False,
        normalize_input=False,
    )


class TonesModel(nn.Module):
    """A tiny encoder with a CTC layer, on utterances of tones."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = SpeechEncoder(tiny_encoder())
        self.output = nn.Linear(self.encoder.output_size, len(SYMBOLS) + 1)

    def forward(
        self, wave: torch.Tensor, symbols: torch.Tensor, gates: Pruner | None = None
    ) -> torch.Tensor:
        """CTC loss per frame, a scalar, of ``(batch, samples)`` and ``(batch, symbols)``."""
        lengths = torch.full((len(wave),), wave.shape[1])
        states, frames = self.encoder(wave, lengths, None if gates is None else gates())
        scores = self.output(states[-1]).log_softmax(-1).transpose(0, 1)
        targets = torch.full((len(wave),), symbols.shape[1])
        loss = F.ctc_loss(scores, symbols, frames, targets, reduction="none", zero_infinity=True)
        return (loss / frames).mean()


def utterances(generator: np.random.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Noisy tones ``(batch, samples)`` and their symbols, counted from 1."""
    symbols = generator.integers(len(SYMBOLS), size=(BATCH, SYMBOLS_PER_UTTERANCE))
    time = np.arange(round(SYMBOL_SECONDS * SAMPLE_RATE)) / SAMPLE_RATE
    envelope = np.sin(math.pi * time / SYMBOL_SECONDS)
    pairs = np.array(SYMBOLS)[symbols]
    phase = generator.uniform(0, 2 * math.pi, size=(*pairs.shape, 1))
    waves = np.sin(2 * math.pi * pairs[..., None] * time + phase).sum(2) * envelope
    wave = waves.reshape(BATCH, -1) + NOISE * generator.standard_normal((BATCH, waves[0].size))
    return torch.tensor(wave, dtype=torch.float32), torch.tensor(symbols + 1)


def pretrained(directory: Path) -> TonesModel:
    """The model that all prunings start from; it is trained once."""
    path = directory / "model.json"
    torch.manual_seed(0)
    model = TonesModel()
    if path.is_file():
        state = json.loads(path.read_text(encoding="utf-8"))
        model.load_state_dict({name: torch.tensor(value) for name, value in state.items()})
        return model
    optimizer = torch.optim.AdamW(model.parameters(), lr=PRETRAINING_RATE)
    generator = np.random.default_rng(0)
    for step in progress_bar(range(PRETRAINING_STEPS), desc="training the dense model"):
        factor = warmup_decay(step, PRETRAINING_STEPS // 10, PRETRAINING_STEPS)
        optimizer.param_groups[0]["lr"] = PRETRAINING_RATE * factor
        optimizer.zero_grad()
        model(*utterances(generator)).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimizer.step()
    state = {name: value.tolist() for name, value in model.state_dict().items()}
    write_text(path, json.dumps(state))
    return model


def prune(model: TonesModel, setting: Setting) -> Curve:
    """Prune a copy of the dense model as the recipe for the base model does."""
    model = copy.deepcopy(model).train()
    torch.manual_seed(1)
    share = setting.steps / PAPER_STEPS
    warmup, ramp = round(PAPER_WARMUP * share), round(PAPER_RAMP * share)
    options = PruningConfig(
        target_sparsity=setting.target,
        ramp_steps=ramp,
        gate_lr=setting.rate,
        lambda_lr=setting.rate,
        damping=setting.damping,
    )
    pruner = Pruner(model.encoder.config, options).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1.5e-4, weight_decay=0.01)
    attach(pruner, optimizer)
    base = [group["lr"] for group in optimizer.param_groups]
    scale = FRAMES_PER_UTTERANCE if setting.loss == "sum" else 1
    generator = np.random.default_rng(1)
    curve = Curve(setting)
    with torch.no_grad():
        curve.initial_loss = float(
            np.mean([model(*utterances(generator)).item() for _ in range(20)])
        )
    losses: list[float] = []
    for step in progress_bar(range(setting.steps), desc=setting.name):
        factor = warmup_decay(step, warmup, setting.steps)
        own = pruning_factor(step, warmup, setting.steps, setting.schedule)
        for group, rate in zip(optimizer.param_groups, base, strict=True):
            group["lr"] = rate * (own if group.get("name") in (GATES, MULTIPLIERS) else factor)
        loss = model(*utterances(generator), pruner)
        penalty, figures = pruner.regularise()
        optimizer.zero_grad()
        (scale * loss + penalty).backward()
        nn.utils.clip_grad_norm_([*model.parameters(), *pruner.parameters()], 5.0)
        optimizer.step()
        losses.append(loss.item())
        if step % RECORDED_STEPS == 0 or step == setting.steps - 1:
            curve.step.append(step)
            curve.target.append(round(float(figures["target_sparsity"]), 6))
            for name in ("sparsity", "lambda1", "lambda2"):
                getattr(curve, name).append(round(float(figures[name]), 6))
            curve.loss.append(round(float(np.mean(losses)), 6))
            losses.clear()
    return curve


def save_curve(curve: Curve, directory: Path) -> Path:
    """Write a curve, and return where."""
    path = directory / f"{curve.setting.name}.json"
    write_text(path, json.dumps(asdict(curve)) + "\n")
    return path


def read_curves(directory: Path) -> list[Curve]:
    """All curves in a directory, by the names of their files.

    Raises:
        HJPruneError: a file is no curve.
    """
    curves = []
    for path in sorted(directory.glob("damping*.json")):
        try:
            values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            curves.append(Curve(**values | {"setting": Setting(**values["setting"])}))
        except (ValueError, KeyError, TypeError) as error:
            raise HJPruneError(
                f"{path} is no curve of this command ({error!r}); remove it and run it again"
            ) from None
    return curves


def curve_table(curves: Sequence[Curve]) -> str:
    """A Markdown table of where the curves end."""
    rows = [
        [
            f"{c.setting.damping:g}",
            f"{c.setting.rate:g}",
            c.setting.schedule,
            c.setting.loss,
            str(c.setting.steps),
            f"{c.setting.target:g}",
            f"{c.sparsity[-1]:.4f}",
            f"{c.error:+.2%}",
            f"{c.overshoot:.1%}",
            "-" if c.settled is None else str(c.settled),
            f"{c.lambda1[-1]:.1f}",
            f"{c.lambda2[-1]:.1f}",
            f"{max(c.loss) / c.initial_loss:.1f}",
            f"{np.mean(c.loss[-20:]) / c.initial_loss:.2f}",
        ]
        for c in sorted(curves, key=lambda c: tuple(asdict(c.setting).values()))
    ]
    header = [
        "damping",
        "rates",
        "schedule",
        "task loss",
        "steps",
        "target",
        "sparsity at the end",
        "off target",
        "largest beyond it",
        "within 1 % from step",
        "lambda1",
        "lambda2",
        "largest loss / dense",
        "last loss / dense",
    ]
    return markdown_table([header, *rows])


def plot_curves(curves: Sequence[Curve], path: Path) -> Path:
    """Draw expected sparsity against steps, a panel for each target, damping and loss."""
    panels: dict[tuple[float, float, str], list[Curve]] = {}
    for curve in sorted(curves, key=lambda c: c.setting.name):
        s = curve.setting
        panels.setdefault((s.target, s.damping, s.loss), []).append(curve)
    names = sorted({(c.setting.rate, c.setting.schedule, c.setting.steps) for c in curves})
    with matplotlib.rc_context(STYLE):
        columns = min(2, len(panels))
        rows = math.ceil(len(panels) / columns)
        figure = new_figure(5.2 * columns, 3.2 * rows)
        grid = figure.subplots(rows, columns, squeeze=False).flat
        for axes, (panel, shown) in zip(grid, sorted(panels.items()), strict=False):
            for curve in shown:
                s = curve.setting
                colour = COLOURS[names.index((s.rate, s.schedule, s.steps)) % len(COLOURS)]
                at = [step / s.steps for step in curve.step]
                label = f"{s.rate:g} {s.schedule}, {s.steps} steps"
                axes.plot(at, curve.sparsity, color=colour, lw=1.4, label=label)
            axes.plot(at, curve.target, "--", color=MUTED, lw=1.2, label="target")
            axes.set_title(
                f"target {panel[0]:g}, damping {panel[1]:g}, {panel[2]} of the task loss"
            )
            axes.set_xlabel("share of the steps")
            axes.set_ylabel("expected sparsity")
            axes.legend(fontsize=7.5, loc="lower right")
        for axes in list(grid):
            axes.remove()
        headline(figure, "Constraint: expected sparsity on its way to the target")
        return save_figure(figure, path)


def settings_of(values: Mapping[str, Sequence[Any]]) -> list[Setting]:
    """Every combination of the given values for the fields of a setting."""
    found: list[dict[str, Any]] = [{}]
    for name, choices in values.items():
        found = [{**chosen, name: choice} for chosen in found for choice in choices]
    return [Setting(**chosen) for chosen in found]
