"""The CNN as matrix products over frames, against torch's convolutions."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from models import padded_batch, random_encoder, random_pruner, small_config

from espnet_hjprune.nn.config import ConvLayerConfig
from espnet_hjprune.nn.frame_conv import LayerNorm, frame_conv
from espnet_hjprune.nn.gate_values import NO_GATES, FeatureGate
from espnet_hjprune.nn.norms import FeatureNorm


def reference(x, weight, bias, gate, stride, norm):
    """The same by a norm over kept channels, an activation and a convolution."""
    if norm is not None:
        layer = FeatureNorm(x.shape[-1], eps=norm.eps).double()
        parts = {"weight": norm.weight, "bias": norm.bias}
        feature_gate = None if norm.share is None else FeatureGate(gate, (gate != 0).double())
        x = torch.func.functional_call(layer, parts, (x, feature_gate))
    if gate is not None:
        weight = weight * gate[:, None]
    return F.conv1d(F.gelu(x).transpose(1, 2), weight, bias, stride).transpose(1, 2)


@settings(max_examples=60, deadline=None)
@given(
    kernel=st.integers(1, 7),
    stride=st.integers(1, 4),
    rows=st.integers(1, 6),
    has_bias=st.booleans(),
    gated=st.booleans(),
    has_norm=st.booleans(),
    seed=st.integers(0, 99),
)
def test_values_and_gradients_equal_the_convolution(
    kernel, stride, rows, has_bias, gated, has_norm, seed
):
    torch.manual_seed(seed)
    frames = stride * rows
    valid = (frames - kernel) // stride + 1
    if valid < 1:
        return
    x = torch.randn(3, frames, 5, dtype=torch.double)
    weight = torch.randn(4, 5, kernel, dtype=torch.double)
    bias = torch.randn(4, dtype=torch.double) if has_bias else None
    gate, norm = None, None
    if gated:
        gate = torch.rand(5, dtype=torch.double)
        gate[0] = 0.0
    if has_norm:
        share = (gate != 0).double() / 4 if gated else None
        affine = [torch.randn(5, dtype=torch.double).requires_grad_() for _ in range(2)]
        norm = LayerNorm(*affine, 1e-5, share)
    leaves = [x, weight, bias, gate]
    leaves = [leaf.requires_grad_() for leaf in leaves if leaf is not None]
    leaves += [norm.weight, norm.bias] if norm else []
    expected = reference(x, weight, bias, gate, stride, norm)
    actual = frame_conv(x, weight, bias, stride, gate, norm)
    assert actual.shape == (3, rows, 4)
    assert torch.allclose(actual[:, :valid], expected, rtol=0, atol=1e-10)
    direction = torch.randn_like(expected)
    for ours, theirs in zip(
        torch.autograd.grad(actual[:, :valid], leaves, direction),
        torch.autograd.grad(expected, leaves, direction),
        strict=True,
    ):
        assert torch.allclose(ours, theirs, rtol=0, atol=1e-9)
    with torch.no_grad():
        again = frame_conv(x.detach().clone(), weight, bias, stride, gate, norm)
    assert torch.allclose(again, actual, rtol=0, atol=1e-12)


def test_half_precision():
    torch.manual_seed(0)
    x, weight = torch.randn(2, 40, 64), torch.randn(32, 64, 3) / 14
    gate = torch.rand(64)
    leaves = [leaf.requires_grad_() for leaf in (x, weight, gate)]
    expected = frame_conv(x.double(), weight.double(), None, 2, gate.double())
    actual = frame_conv(x.to(torch.bfloat16), weight, None, 2, gate)
    assert actual.dtype == torch.bfloat16
    results = [
        [y, *torch.autograd.grad(y.double().square().sum(), leaves)] for y in (expected, actual)
    ]
    for theirs, ours in zip(*results, strict=True):
        assert (ours - theirs).norm() <= 0.02 * theirs.norm()


@pytest.mark.parametrize("norm", [False, True])
def test_one_tensor_of_a_layer_is_kept(norm):
    x, weight, gate = torch.randn(2, 40, 6), torch.randn(8, 6, 3), torch.rand(6)
    parts = [leaf.requires_grad_() for leaf in (x, weight, gate)]
    affine = LayerNorm(torch.rand(6), torch.rand(6), 1e-5) if norm else None
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        frame_conv(x, weight, None, 2, gate, affine)
    parts += [affine.weight, affine.bias] if affine else []
    given = {part.untyped_storage().data_ptr() for part in parts}
    assert kept and {part.untyped_storage().data_ptr() for part in kept} <= given


@pytest.mark.parametrize("strides", [None, (3, 1, 2, 4)])
@pytest.mark.parametrize("grad", [True, False])
@pytest.mark.parametrize("valid", [True, False])
@pytest.mark.parametrize("gated", [True, False])
@pytest.mark.parametrize("style", ["base", "large", "base with bias"])
def test_the_whole_cnn(style, gated, valid, grad, strides):
    """Products, whole or in blocks, give what convolutions give, with their gradients."""
    config = small_config(style.split()[0])
    if "bias" in style:
        config = replace(config, conv_bias=True)
    if strides:
        kernels = (4, 3, 5, 2)
        layers = [ConvLayerConfig(8, *pair) for pair in zip(kernels, strides, strict=True)]
        config = replace(config, conv_layers=layers)
    encoder = random_encoder(config).double()
    extractor = encoder.feature_extractor
    wave, lengths = padded_batch([9000, 7001, 1500])
    wave, lengths = wave.double(), lengths if valid else None
    gates = NO_GATES
    if gated:
        gates = random_pruner(config).evaluation_gates()
        gates.conv = [FeatureGate(gate.value.double(), gate.keep.double()) for gate in gates.conv]
    results = []
    for form in (extractor.as_convolutions, extractor.as_products):
        with torch.set_grad_enabled(grad):
            y = form(wave, gates, lengths)
        results.append([y])
        if grad:
            direction = torch.linspace(-1, 1, y.numel(), dtype=torch.double).view_as(y)
            leaves = [leaf for leaf in extractor.parameters() if leaf.requires_grad]
            results[-1] += torch.autograd.grad(y, leaves, direction)
    assert len(results[0]) == len(results[1]) > grad
    for theirs, ours in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-8)


def test_gates_in_float32_leave_a_wider_model_exact():
    config = small_config("large")
    extractor = random_encoder(config).double().feature_extractor
    wave = padded_batch([5000, 4000])[0].double()
    gates = random_pruner(config).evaluation_gates()
    exact = extractor.as_convolutions(wave, gates)
    torch.testing.assert_close(extractor(wave, gates), exact, rtol=1e-9, atol=1e-9)


def test_empty_branches_keep_the_precision():
    config = small_config()
    config = replace(config, heads=[0, *config.heads[1:]], ffn_sizes=[96, 0, 96])
    encoder = random_encoder(config)
    with torch.autocast("cpu", torch.bfloat16):
        states, _ = encoder(*padded_batch([5000]), all_states=True)
    assert {state.dtype for state in states} == {torch.bfloat16}


def test_derivatives_of_functions():
    """``torch.func`` sees the plain formulas."""
    encoder = random_encoder(small_config())
    wave, lengths = padded_batch([3000])
    parameters = dict(encoder.named_parameters())

    def loss(values):
        return torch.func.functional_call(encoder, values, (wave, lengths))[0][-1].square().sum()

    found = torch.func.grad(loss)(parameters)
    loss(parameters).backward()
    for name, parameter in parameters.items():
        if parameter.requires_grad:
            torch.testing.assert_close(found[name], parameter.grad, rtol=1e-3, atol=1e-4)


def test_derivatives_reach_the_affine_of_a_gated_norm():
    torch.manual_seed(0)
    x, weight = torch.randn(2, 8, 5).double(), torch.randn(4, 5, 3).double()
    share = torch.tensor([0.0, 0.25, 0.25, 0.25, 0.25]).double()
    affine = [torch.rand(5).double().requires_grad_() for _ in range(2)]

    def loss(*affine):
        return frame_conv(x, weight, None, 2, None, LayerNorm(*affine, 1e-5, share)).square().sum()

    found = torch.func.grad(loss, (0, 1))(*affine)
    for ours, expected in zip(found, torch.autograd.grad(loss(*affine), affine), strict=True):
        assert expected.abs().max() > 0
        torch.testing.assert_close(ours, expected)
