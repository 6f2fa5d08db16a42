"""Training steps side by side: our encoder without and with gates, and models of other packages."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial

import torch
from torch import nn

from espnet_hjprune.benchmark.compare import Comparison, Row, measure, settings
from espnet_hjprune.benchmark.models import hugging_face_model
from espnet_hjprune.benchmark.modes import MODES, compiled, runs_at_all
from espnet_hjprune.nn.config import DropoutConfig, EncoderConfig
from espnet_hjprune.nn.encoder import SpeechEncoder
from espnet_hjprune.pruning.config import PruningConfig
from espnet_hjprune.pruning.optimizer import attach
from espnet_hjprune.pruning.pruner import Pruner
from espnet_hjprune.upstream.architectures import architecture

# A backward pass has about twice the products of its forward pass.
PASSES = 3
WITHOUT_GATES, WITH_GATES = "without gates", "with gates"

Step = Callable[[torch.Tensor], None]
# Makes the last states of ``(batch, samples)`` and their lengths.
Encode = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def compare_training(options: Comparison, stock: nn.Module | None = None) -> list[Row]:
    """Time and peak memory of forward and backward passes with the same loss and dropout.

    Args:
        options: what is compared.
        stock: ESPnet's own frontend, to take part too.
    """
    config = architecture(options.upstream)
    steps = _own_steps(options, config)
    if "huggingface" in options.peers:
        steps |= _hugging_face_steps(options, config)
    if stock is not None:
        stock.to(options.device)
        steps["ESPnet's s3prl frontend"] = partial(
            _step, options, lambda wave, lengths: stock(wave, lengths)[0], stock, None
        )
    rows: list[Row] = []
    for seconds, batch, wave in settings(options):
        runs = {name: partial(step, wave) for name, step in steps.items()}
        configs = dict.fromkeys(runs, config)
        rows += measure(options, runs, configs, seconds, batch, PASSES)
    return rows


def _own_steps(options: Comparison, config: EncoderConfig) -> dict[str, Step]:
    torch.manual_seed(0)
    plain = SpeechEncoder(config).train().to(options.device)
    gated = copy.deepcopy(plain)
    pruner = Pruner(config, PruningConfig()).train().to(options.device)
    attach(pruner, torch.optim.AdamW(gated.parameters()))
    steps: dict[str, Step] = {}
    for mode in options.modes:
        for name, encoder, gates in (
            (WITHOUT_GATES, plain, None),
            (WITH_GATES, gated, pruner),
        ):
            forward = compiled(encoder) if mode == "compile" else encoder
            encode = partial(_encode, forward, gates)
            steps[name + MODES[mode]] = partial(_step, options, encode, encoder, gates)
    return steps


def _encode(
    encoder: Callable[..., tuple[list[torch.Tensor], torch.Tensor]],
    gates: Pruner | None,
    wave: torch.Tensor,
    lengths: torch.Tensor,
) -> torch.Tensor:
    """Run our encoder; the noise of the gates is drawn outside of what may be compiled."""
    return encoder(wave, lengths, None if gates is None else gates())[0][-1]


def _hugging_face_steps(options: Comparison, config: EncoderConfig) -> dict[str, Step]:
    """Steps of transformers' model in our modes, where it runs in them."""
    model = hugging_face_model(options.upstream, config, DropoutConfig()).train()
    model.to(options.device)
    _, _, wave = next(settings(options))
    steps: dict[str, Step] = {}
    for mode in options.modes:
        forward = compiled(model) if mode == "compile" else model
        encode = partial(_last_hidden_state, forward)
        name = "huggingface" + MODES[mode]
        step = partial(_step, options, encode, model, None)
        if mode == "eager" or runs_at_all(name, partial(step, wave)):
            steps[name] = step
    return steps


def _last_hidden_state(
    model: Callable[..., object], wave: torch.Tensor, _: torch.Tensor
) -> torch.Tensor:
    state: torch.Tensor = model(wave).last_hidden_state  # type: ignore[attr-defined]
    return state


def _step(
    options: Comparison,
    encode: Encode,
    model: nn.Module,
    gates: Pruner | None,
    wave: torch.Tensor,
) -> None:
    """Forward and backward pass."""
    with options.autocast():
        lengths = torch.full((len(wave),), wave.shape[1], device=wave.device)
        loss = encode(wave, lengths).float().square().mean()
    if gates is not None:
        loss = loss + gates.regularise()[0]
    loss.backward()
    for module in (model, gates):
        if module is not None:
            module.zero_grad(set_to_none=True)
