"""What a training step asks of a device: one compiled graph, no waiting, little memory."""

import copy
import logging
import warnings
from dataclasses import replace

import pytest
import torch
from models import FAMILIES, family_config, padded_batch, random_encoder, random_pruner
from torch._dynamo.utils import counters
from torch._subclasses.fake_tensor import FakeTensorMode

from espnet_hjprune.errors import HJPruneError
from espnet_hjprune.model.distillation import hidden_loss
from espnet_hjprune.model.upstream import SpeechUpstream
from espnet_hjprune.model.upstream_options import UpstreamOptions
from espnet_hjprune.nn import fusion
from espnet_hjprune.nn.config import DropoutConfig, MaskingConfig
from espnet_hjprune.nn.encoder import SpeechEncoder
from espnet_hjprune.pruning.config import PruningConfig
from espnet_hjprune.pruning.optimizer import attach
from espnet_hjprune.pruning.slicing import compact_encoder
from espnet_hjprune.upstream import architecture

MASKING = MaskingConfig(time_prob=0.1, channel_prob=0.1, channel_length=8)


def training(config, gated=True):
    """An upstream in training and its optimiser."""
    options = UpstreamOptions(architecture=config, masking=MASKING)
    upstream = SpeechUpstream(options).train()
    if gated:
        upstream.add_gates(PruningConfig())
    optimizer = torch.optim.AdamW(upstream.parameters(), lr=1e-4)
    if gated:
        attach(upstream.pruner, optimizer)
    return upstream, optimizer


def step(upstream, optimizer, wave, lengths):
    """Everything of ours in a step of the optimiser."""
    device = wave.device.type
    with torch.autocast(device, torch.bfloat16, enabled=device == "cuda"):
        features, frames = upstream(wave, lengths)
    inside = torch.arange(features.shape[1], device=wave.device) < frames.unsqueeze(1)
    loss = hidden_loss([features], [features.detach() + 1], inside)
    if upstream.pruner is not None:
        constraint, _ = upstream.pruner.regularise()
        loss = loss + constraint
    loss.backward()
    torch.nn.utils.clip_grad_norm_(upstream.parameters(), 5.0)
    optimizer.step()
    optimizer.zero_grad()


@pytest.mark.parametrize("gated", [True, False])
@pytest.mark.parametrize("family", FAMILIES)
def test_nothing_reads_values(family, gated):
    """Tensors have no values here: whoever asks for one, as ``item()`` does, fails."""
    with FakeTensorMode():
        upstream, optimizer = training(family_config(family), gated)
        if gated:
            # Reading the clock where a seed is new is allowed, once.
            upstream.pruner.noise._seed = torch.initial_seed()
        wave, lengths = torch.empty(2, 9000), torch.empty(2, dtype=torch.long)
        for _ in range(2):
            step(upstream, optimizer, wave, lengths)
        with pytest.raises(RuntimeError):
            lengths.sum().item()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("gated", [True, False])
def test_nothing_waits_for_a_gpu(gated):
    upstream, optimizer = training(family_config("wav2vec2"), gated)
    upstream.cuda()
    wave, lengths = (part.cuda() for part in padded_batch([9000, 7000]))
    step(upstream, optimizer, wave, lengths)
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            step(upstream, optimizer, wave, lengths)
        finally:
            torch.cuda.set_sync_debug_mode("default")
    assert [str(warning.message) for warning in found] == []


def gradients(encoder, function, wave, lengths, gates, leaves):
    """Last state and gradients of a random direction of it."""
    state = function(wave, lengths, gates)[0][-1]
    direction = torch.linspace(-1, 1, state.numel(), dtype=state.dtype).sin().view_as(state)
    return [state, *torch.autograd.grad(state, leaves, direction, allow_unused=True)]


# torch warns of what it does itself.
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
@pytest.mark.parametrize(
    ("kind", "family", "style"),
    [
        ("dense", "wav2vec2", "base"),
        ("gated", "wav2vec2", "base"),
        ("gated", "wav2vec2", "large"),
        ("gated", "wavlm", "base"),
        ("compact", "wav2vec2", "base"),
    ],
)
def test_one_graph_for_every_length(kind, family, style):
    """``fullgraph`` refuses breaks; a second graph would be a recompilation."""
    config = family_config(family, style)
    config = replace(config, conv_layers=config.conv_layers[:3], heads=[4], ffn_sizes=[96])
    encoder = random_encoder(config).double()
    pruner = random_pruner(config, target_sparsity=0.3).double()
    if kind == "compact":
        encoder = compact_encoder(encoder, pruner.evaluation_gates())[0].double()
    encoder.train()
    for module in encoder.modules():
        if hasattr(module, "dropout"):
            module.dropout = 0.0
    torch._dynamo.reset()
    counters.clear()
    compiled = torch.compile(encoder, fullgraph=True, dynamic=True, backend="aot_eager")
    for sizes in ([9000, 7000], [12000, 3000]):
        wave, lengths = padded_batch(sizes)
        leaves = [leaf for leaf in encoder.parameters() if leaf.requires_grad]
        gates = None
        if kind == "gated":
            values = pruner.gates.log_alpha.detach().sigmoid().requires_grad_()
            gates = pruner.gates.values(values)
            leaves.append(values)
        results = [
            gradients(encoder, function, wave.double(), lengths, gates, leaves)
            for function in (encoder, compiled)
        ]
        for eager, ours in zip(*results, strict=True):
            assert (eager is None) == (ours is None)
            if eager is not None:
                torch.testing.assert_close(ours, eager, rtol=1e-7, atol=1e-8)
    assert counters["stats"]["unique_graphs"] == 1


# torch warns of what it does itself.
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
def test_an_upstream_that_is_compiled():
    """Its parts are a graph each for all lengths, and a copy is not compiled."""
    config = family_config("wav2vec2")
    config = replace(config, conv_layers=config.conv_layers[:3], heads=[4], ffn_sizes=[96])
    options = UpstreamOptions(architecture=config, dropout=DropoutConfig(0.0, 0.0, 0.0, 0.0))
    upstream = SpeechUpstream(options).train().double()
    torch._dynamo.reset()
    counters.clear()
    upstream.compile_encoder(backend="aot_eager", fullgraph=True)
    plain = copy.deepcopy(upstream)
    for sizes in ([9000, 7000], [12000, 3000]):
        wave, lengths = padded_batch(sizes)
        results = []
        for model in (plain, upstream):
            before = counters["stats"]["unique_graphs"]
            features, frames = model(wave.double(), lengths)
            features.sin().sum().backward()
            leaves = [leaf for leaf in model.encoder.parameters() if leaf.requires_grad]
            results.append([features, frames, *(leaf.grad for leaf in leaves)])
            assert model is upstream or counters["stats"]["unique_graphs"] == before
        for expected, found in zip(*results, strict=True):
            torch.testing.assert_close(found, expected, rtol=1e-7, atol=1e-8)
    assert counters["stats"]["unique_graphs"] == 4


def test_a_missing_compiler_is_named(monkeypatch):
    monkeypatch.setattr(fusion.shutil, "which", lambda name: None)
    upstream, _ = training(family_config("wav2vec2"), gated=False)
    with pytest.raises(HJPruneError, match="compile: true needs a C compiler"):
        upstream.compile_encoder()


@pytest.mark.parametrize(
    ("name", "batch", "limit"), [("wav2vec2_base", 16, 9.0), ("wav2vec2_large", 8, 10.2)]
)
def test_what_a_step_keeps_in_half_precision(name, batch, limit):
    """GiB of activations for utterances of 24.5 s, the longest of LibriSpeech-100.

    The attention is the fused one, which on CPUs has no dropout.
    """
    config = architecture(name)
    with FakeTensorMode():
        encoder = SpeechEncoder(config, DropoutConfig(0.1, 0.1, 0.0, 0.0)).train()
        weights = {leaf.untyped_storage()._cdata for leaf in encoder.parameters()}
        kept = {}

        def pack(tensor):
            storage = tensor.untyped_storage()
            if storage._cdata not in weights:
                kept[storage._cdata] = storage.nbytes(), tensor
            return tensor

        wave = torch.empty(batch, 392_000)
        with (
            torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor),
            torch.autocast("cpu", torch.bfloat16),
        ):
            encoder(wave, torch.empty(batch, dtype=torch.long))
    total = sum(size for size, _ in kept.values()) / 2**30
    logging.info("%s keeps %.2f GiB", name, total)
    assert 0.8 * limit <= total <= limit
