"""What a benchmark measures: forward passes and training steps of several encoders."""

from __future__ import annotations

import copy
import logging
import statistics
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from espnet_hjprune.benchmark.models import (
    Contender,
    exported_model,
    own_model,
    peer_model,
    pruned_encoder,
)
from espnet_hjprune.benchmark.timing import Runs, alternate, median_ratio, peak_memory
from espnet_hjprune.constants import SAMPLE_RATE
from espnet_hjprune.errors import HJPruneError
from espnet_hjprune.model.loading import load
from espnet_hjprune.nn.config import EncoderConfig
from espnet_hjprune.nn.encoder import SpeechEncoder
from espnet_hjprune.progress import progress_bar
from espnet_hjprune.pruning.config import PruningConfig
from espnet_hjprune.pruning.cost import macs_and_params
from espnet_hjprune.pruning.optimizer import attach
from espnet_hjprune.pruning.pruner import Pruner
from espnet_hjprune.upstream.architectures import architecture

Row = dict[str, Any]


@dataclass
class Comparison:
    """What is compared, and how.

    Attributes:
        upstream: a named architecture.
        targets: shares of the MACs that random gates remove for the compact models.
        round_to: alignment of their widths.
        model_dirs: compact models to add.
        peers: other packages that run the dense model.
        runtimes: keys of ``RUNTIMES`` that run our models too.
        seconds: audio lengths.
        batches: batch sizes.
        repeats: timed rounds.
        device: ``cpu`` or ``cuda``.
        dtype: torch's name of the autocast type; ``float32`` for none.
    """

    upstream: str
    targets: list[float]
    round_to: int
    model_dirs: list[str]
    peers: list[str]
    runtimes: list[str]
    seconds: list[float]
    batches: list[int]
    repeats: int
    device: str
    dtype: str

    def autocast(self) -> torch.autocast:
        """Mixed precision, when it is asked for."""
        dtype = getattr(torch, self.dtype)
        return torch.autocast(self.device, dtype, enabled=self.dtype != "float32")


def contenders(options: Comparison) -> list[Contender]:
    """The models that the options ask for; the first one is the reference."""
    config = architecture(options.upstream)
    models = [peer_model(peer, options.upstream, config) for peer in options.peers]
    torch.manual_seed(0)
    dense = SpeechEncoder(config).eval()
    models.append(own_model("dense", dense))
    for target in options.targets:
        encoder = pruned_encoder(dense, target, options.round_to)
        models.append(own_model(f"compact {100 * target:.3g}%", encoder))
    models += [_compact_model(path, options.upstream, config) for path in options.model_dirs]
    ours = models[len(options.peers) :]
    models += [exported_model(model, name) for name in options.runtimes for model in ours]
    names = [model.name for model in models]
    for name in names:
        if names.count(name) > 1:
            raise HJPruneError(f"{name} would take part twice; give every model once")
    return models


def _compact_model(path: str, upstream: str, dense: EncoderConfig) -> Contender:
    """A compact model, which must be one of the dense architecture."""
    encoder = load(path)

    def kept_by_pruning(config: EncoderConfig) -> tuple[Any, ...]:
        kernels = [(layer.kernel, layer.stride) for layer in config.conv_layers]
        return kernels, len(config.heads), config.head_dim, config.norm_first

    if kept_by_pruning(encoder.config) != kept_by_pruning(dense):
        raise HJPruneError(
            f"--model_dir {path} was not pruned from a model like {upstream}; name its dense "
            "architecture by --upstream"
        )
    return own_model(path, encoder)


def settings(options: Comparison) -> Iterator[tuple[float, int, torch.Tensor]]:
    """Audio length, batch size and audio of every comparison."""
    generator = torch.Generator().manual_seed(0)
    for seconds in options.seconds:
        for batch in options.batches:
            samples = round(seconds * SAMPLE_RATE)
            wave = 0.1 * torch.randn(batch, samples, generator=generator)
            yield seconds, batch, wave.to(options.device)


def compare_inference(options: Comparison) -> list[Row]:
    """Latency and peak memory of forward passes; one row for each model and setting."""
    models = contenders(options)
    for model in models:
        model.module.to(options.device)
    rows: list[Row] = []
    with torch.inference_mode(), options.autocast():
        for seconds, batch, wave in settings(options):
            runs: Runs = {m.name: partial(m.forward, wave) for m in models}
            rows += _measure(options, runs, {m.name: m.config for m in models}, seconds, batch)
    return rows


def compare_training(options: Comparison, stock: torch.nn.Module | None = None) -> list[Row]:
    """Time and peak memory of training steps of our encoder without and with gates.

    Args:
        options: what is compared.
        stock: ESPnet's own frontend, to take part too.
    """
    config = architecture(options.upstream)
    torch.manual_seed(0)
    plain = SpeechEncoder(config).train().to(options.device)
    gated = copy.deepcopy(plain)
    pruner = Pruner(config, PruningConfig()).train().to(options.device)
    attach(pruner, torch.optim.AdamW(gated.parameters()))

    def step(encoder: SpeechEncoder, wave: torch.Tensor, gates: Pruner | None) -> None:
        with options.autocast():
            lengths = torch.full((len(wave),), wave.shape[1], device=wave.device)
            states, _ = encoder(wave, lengths, gates() if gates is not None else None)
            loss = states[-1].float().square().mean()
        if gates is not None:
            loss = loss + gates.regularise()[0]
        loss.backward()
        for module in (encoder, pruner):
            module.zero_grad(set_to_none=True)

    if stock is not None:
        stock.to(options.device)

    def stock_step(frontend: torch.nn.Module, wave: torch.Tensor) -> None:
        with options.autocast():
            lengths = torch.full((len(wave),), wave.shape[1], device=wave.device)
            frontend(wave, lengths)[0].float().square().mean().backward()
        frontend.zero_grad(set_to_none=True)

    rows: list[Row] = []
    for seconds, batch, wave in settings(options):
        runs = {
            "without gates": partial(step, plain, wave, None),
            "with gates": partial(step, gated, wave, pruner),
        }
        if stock is not None:
            runs["ESPnet's s3prl frontend"] = partial(stock_step, stock, wave)
        rows += _measure(options, runs, dict.fromkeys(runs, config), seconds, batch)
    return rows


def _measure(
    options: Comparison,
    runs: Runs,
    configs: dict[str, EncoderConfig],
    seconds: float,
    batch: int,
) -> list[Row]:
    """Rows of one setting; the first run is the reference."""
    logging.info("Timing %s models on %s x %g s of audio", len(runs), batch, seconds)
    with progress_bar(total=options.repeats + 1, desc=f"{batch} x {seconds:g} s") as bar:
        times = alternate(
            runs, options.repeats, device=options.device, after_round=lambda: bar.update()
        )
    reference = next(iter(runs))
    samples = round(seconds * SAMPLE_RATE)
    dense_macs = macs_and_params(configs[reference], None, samples)["macs"]
    rows = []
    for name, run in runs.items():
        cost = macs_and_params(configs[name], None, samples)
        latency = statistics.median(times[name])
        rows.append(
            {
                "model": name,
                "seconds": seconds,
                "batch": batch,
                "latency": latency,
                "latencies": times[name],
                "real_time_factor": latency / (seconds * batch),
                # A runtime that keeps its memory between runs shows none.
                "peak_memory": peak_memory(run, options.device) or None,
                "speed_up": median_ratio(times[name], times[reference]),
                "macs": cost["macs"],
                "mac_reduction": dense_macs / cost["macs"],
                "params": cost["params"],
            }
        )
    return rows
