"""Make a :class:`~espnet_hjprune.pruning.latency.LatencyTable`: time encoders of many widths.

Every module is timed where it runs, inside of encoders whose layers all have other widths, so that
caches and memory are as they are in use. What the seconds are sums of is fitted to these times, and
checked on encoders that random gates have pruned.
"""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
import torch
from scipy.optimize import nnls
from torch import nn

from espnet_hjprune.alternation import synchronise
from espnet_hjprune.constants import SAMPLE_RATE
from espnet_hjprune.model.alignment import prune_at_random
from espnet_hjprune.nn.config import EncoderConfig, PositionalConfig
from espnet_hjprune.nn.encoder import SpeechEncoder
from espnet_hjprune.pruning.config import PruningConfig
from espnet_hjprune.pruning.cost import config_counts
from espnet_hjprune.pruning.latency import MODULES, LatencyTable, features, signature
from espnet_hjprune.pruning.measures import pruned_config

# Levels of widths, from a step to all; encoders have each equally often in every layer.
LEVELS = 8
# Shares of the MACs that are left of the encoders of the check: from the first to the last.
CHECKED = (0.9, 0.3)
# Modules that take less than this share of the mean count as if they took so much.
FLOOR = 0.2
WEIGHT_SPREAD = 0.02
# Numbers after which weights may begin: 64 bytes in every type, as torch's own memory does.
ALIGNMENT = 64


@dataclass(frozen=True)
class Setting:
    """What is timed.

    Attributes:
        device: ``cpu`` or ``cuda``.
        dtype: of the weights.
        seconds: length of the audio.
        batch: utterances.
    """

    device: str = "cpu"
    dtype: torch.dtype = torch.float32
    seconds: float = 10.0
    batch: int = 1

    @property
    def samples(self) -> int:
        """Samples of an utterance."""
        return round(self.seconds * SAMPLE_RATE)


class Probe:
    """An encoder that can be timed as a whole and module by module.

    Args:
        encoder: on the CPU; its weights are replaced.
        weights: numbers that encoders share as their weights, so that many fit into memory.
        setting: what is timed.
    """

    def __init__(self, encoder: SpeechEncoder, weights: torch.Tensor, setting: Setting) -> None:
        self.counts = config_counts(encoder.config)
        self.encoder = encoder.eval()
        self.device = setting.device
        start = 0
        for parameter in encoder.parameters():
            end = start + parameter.numel()
            parameter.data = weights[start:end].view(parameter.shape)
            start = _aligned(end)
        encoder.to(setting.device)
        noise = torch.Generator().manual_seed(0)
        # Silence would be computed faster in some kernels.
        wave = 0.1 * torch.randn(setting.batch, setting.samples, generator=noise)
        self.wave = wave.to(setting.device)
        self.lengths = torch.full((setting.batch,), setting.samples, device=setting.device)
        self.totals: list[float] = []
        self.intervals: list[dict[str, list[float]]] = []

    @torch.inference_mode()
    def time(self) -> None:
        """Run three times: to warm up, as a whole, and module by module."""
        self._run()
        synchronise(self.device)
        start = time.perf_counter()
        self._run()
        synchronise(self.device)
        self.totals.append(time.perf_counter() - start)
        clock = Clock(self.device)
        with _marks(self.encoder, clock):
            clock.mark("cnn")
            self._run()
            clock.mark("")
        self.intervals.append(clock.intervals())
        if self.device == "cpu":
            # Marks take no time to speak of there, so that this is another pass as a whole.
            self.totals.append(sum(itertools.chain(*self.intervals[-1].values())))

    def _run(self) -> None:
        self.encoder(self.wave, self.lengths)

    def seconds(self) -> float:
        """Seconds of the fastest pass: what else a machine does only adds to it."""
        return min(self.totals)

    def module_seconds(self) -> dict[str, list[float]]:
        """Seconds of every module of :data:`.MODULES`, each in its fastest pass."""
        return {
            name: [min(times) for times in zip(*(f[name] for f in self.intervals), strict=True)]
            for name in MODULES
        }


def _aligned(place: int) -> int:
    """The next place where a tensor may begin, as where it has memory of its own."""
    return -(-place // ALIGNMENT) * ALIGNMENT


class Clock:
    """Notes when modules begin, on the device on which they run."""

    def __init__(self, device: str) -> None:
        self.device = device
        self.marks: list[tuple[str, float | torch.cuda.Event]] = []

    def mark(self, name: str) -> None:
        """What comes from here on belongs to the module of this name."""
        if self.device == "cpu":
            self.marks.append((name, time.perf_counter()))
            return
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        self.marks.append((name, event))

    def intervals(self) -> dict[str, list[float]]:
        """Seconds between the marks, by name and in order."""
        synchronise(self.device)
        found: dict[str, list[float]] = {}
        for (name, start), (_, end) in zip(self.marks, self.marks[1:], strict=False):
            if isinstance(start, float) and isinstance(end, float):
                seconds = end - start
            else:
                assert isinstance(start, torch.cuda.Event)
                seconds = start.elapsed_time(end) / 1000
            found.setdefault(name, []).append(seconds)
        return found


@contextmanager
def _marks(encoder: SpeechEncoder, clock: Clock) -> Iterator[None]:
    """Let a clock note when the parts of an encoder begin.

    A norm belongs to the branch that it comes before or after.
    """
    parts: list[tuple[nn.Module, str]] = [
        (encoder.feature_projection, "projection"),
        (encoder.positional_embedding, "hidden"),
    ]
    for layer in encoder.transformer.transformer_layers():
        parts.append((layer, "attention"))
        parts.append((layer.ffn_norm if layer.norm_first else layer.ffn, "ffn"))

    def marker(name: str) -> Callable[[nn.Module, object], None]:
        return lambda module, inputs: clock.mark(name)

    hooks = [part.register_forward_pre_hook(marker(name)) for part, name in parts]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def probe_configs(config: EncoderConfig, number: int, step: int) -> Iterator[EncoderConfig]:
    """Architectures whose layers have random widths, of :data:`LEVELS` levels equally often.

    Args:
        config: the dense architecture.
        number: of architectures; the first one is dense.
        step: all widths but the dense ones and the heads are multiples of this.
    """
    random = np.random.default_rng(0)
    yield config
    layers = len(config.heads)
    kinds = [layer.channels for layer in config.conv_layers] + [config.hidden_size]
    kinds += list(config.heads) + list(config.ffn_sizes)
    # One level of each kind for every architecture, in random order.
    levels = np.stack([random.permutation(np.arange(number) % LEVELS) for _ in kinds], axis=1)
    for row in levels[1:]:
        # Anything within a level, but all at the last one.
        shares = (row + 1 - random.random(len(row)) * (row < LEVELS - 1)) / LEVELS
        convs = len(config.conv_layers)
        channels = [_width(size, share, step) for size, share in zip(kinds, shares, strict=True)]
        hidden = channels[convs]
        features_left = np.sort(random.permutation(config.hidden_size)[:hidden])
        # Heads and FFN units may be gone altogether.
        first, last = convs + 1, convs + 1 + layers
        heads = [
            round(size * share) if level > 0 else 0
            for size, share, level in zip(config.heads, shares[first:], row[first:], strict=False)
        ]
        ffn = [
            size if level > 0 else 0
            for size, level in zip(channels[last:], row[last:], strict=True)
        ]
        yield _with_sizes(config, channels[:convs], features_left, heads, ffn)


def _width(size: int, share: float, step: int) -> int:
    """A share of a width, as a multiple of the step."""
    return min(max(round(size * share / step), 1) * step, size)


def _with_sizes(
    config: EncoderConfig,
    channels: Sequence[int],
    hidden: np.ndarray,
    heads: Sequence[int],
    ffn: Sequence[int],
) -> EncoderConfig:
    """The architecture with these channels, hidden features, heads and FFN units."""
    ends = np.cumsum(config.positional.group_widths)
    groups = np.bincount(np.searchsorted(ends, hidden, side="right"), minlength=len(ends))
    positional = PositionalConfig(
        config.positional.kernel, groups.tolist(), False, config.positional.depth
    )
    relative = config.relative
    if relative is not None:
        before = [relative.layer_columns(layer, count) for layer, count in enumerate(config.heads)]
        columns = [all_[:count] for all_, count in zip(before, heads, strict=True)]
        relative = replace(relative, columns=columns)
    dense = config.dense_features
    return replace(
        config,
        conv_layers=[
            replace(layer, channels=count)
            for layer, count in zip(config.conv_layers, channels, strict=True)
        ],
        hidden_size=len(hidden),
        heads=list(heads),
        ffn_sizes=list(ffn),
        positional=positional,
        relative=relative,
        hidden_features=[dense[feature] for feature in hidden],
        output_width=None,
        output_positions=None,
    )


def make_probes(
    config: EncoderConfig, number: int, step: int, checked: int, setting: Setting
) -> tuple[list[Probe], list[Probe]]:
    """Encoders to fit to, and others to check the fit on; nothing is timed yet.

    Args:
        config: the dense architecture.
        number: of encoders to fit to.
        step: of their widths.
        checked: encoders to check on, pruned by random gates to MACs from low to high targets.
        setting: what will be timed.

    Raises:
        HJPruneError: encoders of these sizes cannot be pruned so far.
    """
    config = pruned_config(config)
    dense = SpeechEncoder(config)
    size = sum(_aligned(parameter.numel()) for parameter in dense.parameters())
    weights = WEIGHT_SPREAD * torch.randn(size, generator=torch.Generator().manual_seed(0))
    weights = weights.to(setting.device, setting.dtype)
    fitted = [
        Probe(SpeechEncoder(probe), weights, setting)
        for probe in probe_configs(config, number, step)
    ]
    others = []
    for seed, left in enumerate(np.linspace(*CHECKED, checked)):
        options = PruningConfig(
            target_sparsity=1 - float(left), round_to=step, seconds=setting.seconds
        )
        others.append(Probe(prune_at_random(dense, options, seed), weights, setting))
    return fitted, others


def time_probes(probes: Sequence[Probe], rounds: int, after: Callable[[], object]) -> None:
    """Time all encoders in turn.

    Args:
        probes: the encoders.
        rounds: passes through all, in another order each.
        after: called after each encoder, for a progress bar.
    """
    random = np.random.default_rng(1)
    for _ in range(rounds):
        for place in random.permutation(len(probes)):
            probes[place].time()
            after()


def fit(probes: Sequence[Probe]) -> dict[str, list[float]]:
    """Coefficients of :func:`.features` that explain the times of encoders; none is negative."""
    rows: dict[str, list[list[float]]] = {name: [] for name in MODULES}
    times: dict[str, list[float]] = {name: [] for name in MODULES}
    for probe in probes:
        found = features(probe.counts)
        measured = probe.module_seconds()
        for name in MODULES:
            rows[name] += found[name]
            times[name] += measured[name]
    coefficients = {
        name: _solve(np.array(rows[name], dtype=float), np.array(times[name])) for name in MODULES
    }
    # On a GPU what the marks themselves cost is taken off; on the CPU modules add up to less than
    # the fastest pass of the whole, as not all of them are at their fastest in one.
    share = statistics.median(
        probe.seconds() / sum(sum(seconds) for seconds in probe.module_seconds().values())
        for probe in probes
    )
    return {name: (share * factors).tolist() for name, factors in coefficients.items()}


def _solve(rows: np.ndarray, seconds: np.ndarray) -> np.ndarray:
    """Least squares of relative errors without negative coefficients."""
    weight = 1 / np.maximum(seconds, FLOOR * seconds.mean())
    scale = np.abs(rows).max(axis=0)
    # Some count is the same in all encoders, as 0 where there is no such thing.
    scale[scale == 0] = 1
    found, _ = nnls(rows / scale * weight[:, None], seconds * weight)
    return np.asarray(found / scale)


def check(table: LatencyTable, probes: Sequence[Probe]) -> dict[str, object]:
    """How far predictions are from measured seconds, as shares of these."""
    rows = [(table.whole_cost(probe.counts), probe.seconds()) for probe in probes]
    errors = [abs(predicted / measured - 1) for predicted, measured in rows]
    return {
        "encoders": len(probes),
        "median_error": statistics.median(errors),
        "largest_error": max(errors),
        "predicted": [predicted for predicted, _ in rows],
        "measured": [measured for _, measured in rows],
    }


def make_table(
    config: EncoderConfig,
    fitted: Sequence[Probe],
    checked: Sequence[Probe],
    step: int,
    setting: Setting,
    machine: dict[str, object],
) -> LatencyTable:
    """The table of encoders that were timed."""
    table = LatencyTable(
        architecture=signature(config),
        device=setting.device,
        dtype=str(setting.dtype).removeprefix("torch."),
        threads=torch.get_num_threads(),
        seconds=setting.seconds,
        batch=setting.batch,
        step=step,
        coefficients=fit(fitted),
        machine=machine,
        check={},
    )
    return replace(table, check=check(table, checked))
