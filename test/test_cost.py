"""Counted and expected costs against torch's counter, real models and brute force."""

import itertools
import json
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from models import FAMILIES, family_encoder, latency_table, random_pruner
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from espnet_hjprune.bin import profile
from espnet_hjprune.errors import HJPruneError
from espnet_hjprune.nn.config import ConvLayerConfig, EncoderConfig, PositionalConfig
from espnet_hjprune.nn.feature_extractor import FeatureExtractor
from espnet_hjprune.nn.gate_values import NO_GATES
from espnet_hjprune.pruning.config import DEFAULT_UNITS, UNITS, PruningConfig
from espnet_hjprune.pruning.cost import UnitCounts, config_counts, encoder_cost
from espnet_hjprune.pruning.gates import GateSet
from espnet_hjprune.pruning.quadratic import counts_from_flat
from espnet_hjprune.pruning.slicing import compact_encoder
from espnet_hjprune.upstream import architecture


def counted_by_torch(encoder, samples):
    """MACs by FlopCounterMode, which counts two operations for each."""
    counter = FlopCounterMode(display=False)
    encoder.requires_grad_(False)
    # Matrix products of the CNN have rows that nothing reads. The counter knows attention only as
    # matrix products.
    encoder.feature_extractor.forward = encoder.feature_extractor.as_convolutions
    with counter, sdpa_kernel(SDPBackend.MATH):
        encoder(torch.randn(1, samples), torch.tensor([samples]))
    assert counter.get_total_flops() % 2 == 0
    return counter.get_total_flops() // 2


def counted_by_us(config, kind, samples):
    return encoder_cost(config, config_counts(config), kind, samples)


@settings(max_examples=60, deadline=None)
@given(
    style=st.sampled_from(["base", "large"]),
    family=st.sampled_from(FAMILIES),
    seed=st.integers(0, 1000),
    target=st.floats(0.05, 0.9),
    samples=st.integers(400, 20000),
)
def test_compact_macs_and_parameters_are_exact(style, family, seed, target, samples):
    encoder = family_encoder(family, style)
    pruner = random_pruner(encoder.config, seed, target_sparsity=target)
    compact, _ = compact_encoder(encoder, pruner())
    assert counted_by_us(compact.config, "macs", samples) == counted_by_torch(compact, samples)
    parameters = sum(p.numel() for p in compact.parameters())
    assert counted_by_us(compact.config, "params", samples) == parameters


@pytest.mark.parametrize("name", ["wav2vec2_base", "wav2vec2_large"])
def test_products_of_the_cnn_do_little_more_than_is_counted(name):
    config = architecture(name)
    # The counter does not know products that add to their result in place.
    mapping = {torch.ops.aten.addmm_: lambda _, a, b, **kwargs: 2 * a[0] * a[1] * b[1]}
    counter = FlopCounterMode(display=False, custom_mapping=mapping)
    with FakeTensorMode(), counter:
        FeatureExtractor(config)(torch.empty(2, 160_000), NO_GATES)
    counted = 2 * encoder_cost(config, config_counts(config), "macs", 160_000, "cnn")
    assert counted <= counter.get_total_flops() / 2 <= 1.01 * counted


def test_profile_of_wav2vec2_base(capsys):
    profile.main(["--upstream", "wav2vec2_base", "--json"])
    report = json.loads(capsys.readouterr().out)
    assert report["macs"] == 74_066_523_136
    assert report["params"] == 94_371_712
    assert sum(module["macs"] for module in report["modules"]) == report["macs"]
    assert sum(module["params"] for module in report["modules"]) == report["params"]
    profile.main(["--upstream", "wav2vec2_base"])
    assert "33.1%" in capsys.readouterr().out


def test_the_readmes_table_is_what_profile_prints(capsys):
    profile.main(["--table"])
    table = capsys.readouterr().out
    assert table in (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
    profile.main(["--upstream", "wavlm_base_plus", "--json"])
    base = json.loads(capsys.readouterr().out)
    (row,) = [line for line in table.splitlines() if "`wavlm_base_plus`" in line]
    assert f"|{base['macs'] / 1e9:.2f}|{base['params'] / 1e6:.2f} M|" in row


def test_the_table_goes_with_no_model():
    with pytest.raises(HJPruneError, match="--table prints all"):
        profile.main(["--table", "--upstream", "wavlm_base"])
    with pytest.raises(HJPruneError, match="shorter than one frame"):
        profile.main(["--table", "--seconds", "0.01"])


def tiny_config() -> EncoderConfig:
    """Few enough units to enumerate every gate pattern."""
    return EncoderConfig(
        conv_layers=[ConvLayerConfig(2, 4, 2), ConvLayerConfig(2, 3, 2)],
        hidden_size=4,
        head_dim=2,
        heads=[2],
        ffn_sizes=[2],
        positional=PositionalConfig(3, [2, 2], weight_norm=False),
    )


@pytest.mark.parametrize(
    "units",
    [
        DEFAULT_UNITS,
        UNITS,
        ["conv", "attention_layer", "ffn_layer", "hidden"],
        ["conv", "head", "ffn_layer", "hidden"],
    ],
)
@pytest.mark.parametrize("kind", ["macs", "params", "seconds"])
def test_expected_cost_by_enumeration(kind, units):
    config = tiny_config()
    table = latency_table(config)

    def cost(counts):
        if kind == "seconds":
            return table.cost(counts)
        return encoder_cost(config, counts, kind, 400)

    gates = GateSet(config, PruningConfig(units=list(units), target_sparsity=0.1)).double()
    torch.manual_seed(3)
    with torch.no_grad():
        gates.log_alpha.normal_(-1.0, 1.5)
    probability = gates.keep_probability().double().tolist()
    expected = 0.0
    for pattern in itertools.product([0, 1], repeat=len(probability)):
        weight = 1.0
        for is_open, p in zip(pattern, probability, strict=True):
            weight *= p if is_open else 1 - p
        kept = {"head0": 2, "ffn0": 2}
        kept |= {"attention_layer0": 1, "ffn_layer0": 1}
        kept |= {g.unit + str(g.layer): sum(pattern[g.slice]) for g in gates.groups}
        kept["head0"] *= kept["attention_layer0"]
        kept["ffn0"] *= kept["ffn_layer0"]
        hidden = pattern[gates.groups[-1].slice]
        counts = UnitCounts(
            conv=[kept["conv0"], kept["conv1"]],
            head=[kept["head0"]],
            ffn=[kept["ffn0"]],
            hidden=kept["hidden0"],
            positional_pairs=sum(hidden[:2]) ** 2 + sum(hidden[2:]) ** 2,
            attention_layer=[kept["attention_layer0"]],
            ffn_layer=[kept["ffn_layer0"]],
        )
        expected += weight * cost(counts)
    flat = gates.expected_counts()
    ours = cost(counts_from_flat(config, flat))
    assert ours.item() == pytest.approx(expected, rel=1e-6)


def test_expected_sparsity_is_differentiable_and_precise_at_full_size():
    config = architecture("wav2vec2_base")
    pruner = random_pruner(config, target_sparsity=0.4)
    sparsity = pruner.expected_sparsity()
    sparsity.sum().backward()
    gradient = pruner.gates.log_alpha.grad
    assert torch.isfinite(gradient).all() and (gradient < 0).all()
    exact = pruner.expected_counts()
    reference = 1 - encoder_cost(pruner.config, exact, "macs", 160000) / 74_066_523_136
    assert sparsity.item() == pytest.approx(reference.item(), abs=1e-6)
