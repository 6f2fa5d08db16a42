"""What a benchmark measures, and how: forward passes of several encoders."""

from __future__ import annotations

import logging
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from espnet_hjprune.alternation import Runs, alternate
from espnet_hjprune.benchmark.models import (
    Contender,
    exported_model,
    in_mode,
    own_model,
    peer_model,
    pruned_encoder,
)
from espnet_hjprune.benchmark.modes import never_waits, runs_at_all
from espnet_hjprune.benchmark.timing import median_ratio, peak_memory, reserved_memory
from espnet_hjprune.constants import SAMPLE_RATE
from espnet_hjprune.errors import HJPruneError
from espnet_hjprune.model.loading import load
from espnet_hjprune.nn.config import EncoderConfig
from espnet_hjprune.nn.encoder import SpeechEncoder
from espnet_hjprune.progress import progress_bar
from espnet_hjprune.pruning.cost import config_counts, macs_and_params
from espnet_hjprune.pruning.latency import LatencyTable, read_table
from espnet_hjprune.upstream.architectures import architecture

Row = dict[str, Any]
# Passes that are not timed. The first ones on a GPU choose kernels.
WARM_UP = {"cpu": 1, "cuda": 3}


@dataclass
class Comparison:
    """What is compared, and how.

    Attributes:
        upstream: a named architecture.
        targets: shares of the MACs that random gates remove for the compact models.
        latency_table: of the measured seconds that ``latency_targets`` are shares of.
        latency_targets: shares of these seconds that random gates remove for more of them.
        round_to: alignment of their widths.
        model_dirs: compact models to add.
        peers: other packages that run the dense model; they can be imported.
        modes: keys of ``MODES`` that our models run in.
        runtimes: keys of ``RUNTIMES`` that run our models too.
        seconds: audio lengths.
        batches: batch sizes.
        repeats: timed rounds.
        device: ``cpu`` or ``cuda``.
        dtype: torch's name of the type that products are computed in.
        half_weights: keep the weights in this type, instead of autocast to it.
        rate: operations per second that the device reaches in this type; times are compared with
            it.
    """

    upstream: str
    targets: list[float]
    latency_table: str
    latency_targets: list[float]
    round_to: int
    model_dirs: list[str]
    peers: list[str]
    modes: list[str]
    runtimes: list[str]
    seconds: list[float]
    batches: list[int]
    repeats: int
    device: str
    dtype: str
    half_weights: bool
    rate: float

    @property
    def torch_dtype(self) -> torch.dtype:
        """The type that products are computed in."""
        dtype: torch.dtype = getattr(torch, self.dtype)
        return dtype

    def autocast(self) -> torch.autocast:
        """Mixed precision, when it is asked for."""
        mixed = self.dtype != "float32" and not self.half_weights
        return torch.autocast(self.device, self.torch_dtype, enabled=mixed)


def contenders(options: Comparison) -> list[Contender]:
    """The models that the options ask for, on the device; the first one is the reference."""
    config = architecture(options.upstream)
    peers = [peer_model(peer, options.upstream, config) for peer in options.peers]
    torch.manual_seed(0)
    dense = SpeechEncoder(config).eval()
    ours = [own_model("dense", dense)]
    for target in options.targets:
        encoder = pruned_encoder(dense, target, options.round_to)
        ours.append(own_model(f"compact {100 * target:.3g}%", encoder))
    for target in options.latency_targets:
        encoder = pruned_encoder(dense, target, latency_table=options.latency_table)
        ours.append(own_model(f"compact {100 * target:.3g}% of the seconds", encoder))
    ours += [_compact_model(path, options.upstream, config) for path in options.model_dirs]
    exported = [exported_model(model, name) for name in options.runtimes for model in ours]
    for model in (*peers, *ours):
        model.module.to(options.device)
        if options.half_weights:
            model.module.to(options.torch_dtype)
    models = [in_mode(model, "eager", options.autocast) for model in peers]
    models += _peers_in_modes(options, peers)
    models += [in_mode(model, mode, options.autocast) for mode in options.modes for model in ours]
    models += exported
    names = [model.name for model in models]
    for name in names:
        if names.count(name) > 1:
            raise HJPruneError(f"{name} would take part twice; give every model once")
    return models


def _peers_in_modes(options: Comparison, peers: list[Contender]) -> list[Contender]:
    """Hugging Face's model in our modes beside ``eager``, where it runs in them."""
    found = []
    _, _, wave = next(settings(options))
    for peer in peers:
        for mode in options.modes:
            if mode == "eager" or peer.name != "huggingface":
                continue
            model = in_mode(peer, mode, options.autocast)
            eager = in_mode(peer, "eager", options.autocast)
            before = [partial(eager.forward, wave)] if mode == "graph" else []
            if runs_at_all(model.name, partial(_try, partial(model.forward, wave), before)):
                found.append(model)
    return found


def _try(run: Callable[[], object], before: Sequence[Callable[[], object]]) -> None:
    """Run a model, after runs that must not wait for the GPU."""
    with torch.inference_mode():
        for other in before:
            never_waits(other)
        run()


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
    """Latency and peak memory of forward passes; one row for each model and setting.

    Rows of compact models have ``against_dense``: how many times faster they are than our dense
    model in the same mode; where there is a table of latencies for so much audio, rows have the
    ``predicted`` seconds.
    """
    table = read_table(options.latency_table) if options.latency_table else None
    if table is not None:
        table.check_fits(architecture(options.upstream))
    models = contenders(options)
    configs = {model.name: model.config for model in models}
    rows: list[Row] = []
    with torch.inference_mode():
        for seconds, batch, wave in settings(options):
            runs = {model.name: partial(model.forward, wave) for model in models}
            measured = measure(options, runs, configs, seconds, batch)
            times = {row["model"]: row["latencies"] for row in measured}
            for model, row in zip(models, measured, strict=True):
                dense = times.get(f"dense{model.variant}")
                if dense is not None and model.is_compact:
                    row["against_dense"] = median_ratio(row["latencies"], dense)
                is_ours = isinstance(model.module, SpeechEncoder) and not model.variant
                if table and is_ours and tells(table, options, seconds, batch):
                    row["predicted"] = table.whole_cost(config_counts(model.config))
            rows += measured
    return rows


def tells(table: LatencyTable, options: Comparison, seconds: float, batch: int) -> bool:
    """Whether a table was made with what is measured; on another machine it is off all the same."""
    is_plain = options.dtype == "float32" or options.half_weights
    return is_plain and (
        table.device,
        table.dtype,
        table.threads,
        table.seconds,
        table.batch,
    ) == (options.device, options.dtype, torch.get_num_threads(), seconds, batch)


def measure(
    options: Comparison,
    runs: Runs,
    configs: dict[str, EncoderConfig],
    seconds: float,
    batch: int,
    passes: int = 1,
) -> list[Row]:
    """Time several runs in turn; the first one is the reference.

    Args:
        options: rounds and device.
        runs: what is called, by name.
        configs: our architecture of the model that each runs.
        seconds: length of the audio.
        batch: utterances.
        passes: forward passes that have as many operations as a run; 3 with a backward pass.
    """
    logging.info("Timing %s models on %s x %g s of audio", len(runs), batch, seconds)
    warm_up = WARM_UP[options.device]
    with progress_bar(total=options.repeats + warm_up, desc=f"{batch} x {seconds:g} s") as bar:
        times = alternate(
            runs, options.repeats, warm_up, options.device, after_round=lambda: bar.update()
        )
    reference = next(iter(runs))
    dense_macs = macs_and_params(configs[reference], None, round(seconds * SAMPLE_RATE))["macs"]
    rows = []
    for name, run in runs.items():
        row = figures(options, name, configs[name], times[name], seconds, batch, passes)
        # A runtime that keeps its memory between runs shows none.
        row["peak_memory"] = peak_memory(run, options.device) or None
        row["reserved_memory"] = reserved_memory(run, options.device) or None
        row["speed_up"] = median_ratio(times[name], times[reference])
        row["mac_reduction"] = dense_macs / row["macs"]
        rows.append(row)
    return rows


def figures(
    options: Comparison,
    name: str,
    config: EncoderConfig,
    times: list[float],
    seconds: float,
    batch: int,
    passes: int,
) -> Row:
    """What follows from the times of a model alone; see :func:`measure`."""
    cost = macs_and_params(config, None, round(seconds * SAMPLE_RATE))
    latency = statistics.median(times)
    return {
        "model": name,
        "seconds": seconds,
        "batch": batch,
        "latency": latency,
        "latencies": times,
        "real_time_factor": latency / (seconds * batch),
        "macs": cost["macs"],
        "params": cost["params"],
        "share_of_peak": 2 * passes * batch * cost["macs"] / latency / options.rate,
    }
