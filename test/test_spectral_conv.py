"""The positional convolution by spectra, which GPUs run, against torch's convolution."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from espnet_hjprune.nn import positional_embedding
from espnet_hjprune.nn.config import PositionalConfig
from espnet_hjprune.nn.positional_embedding import PositionalConv
from espnet_hjprune.nn.spectral_conv import block_length, spectral_conv


@settings(max_examples=40, deadline=None)
@given(
    kernel=st.integers(1, 40),
    frames=st.integers(1, 150),
    widths=st.lists(st.integers(0, 5), min_size=1, max_size=5).filter(any),
    equal=st.booleans(),
    seed=st.integers(0, 99),
)
def test_values_and_gradients_equal_the_convolution(kernel, frames, widths, equal, seed):
    torch.manual_seed(seed)
    if equal:
        widths = [max(widths)] * len(widths)
    conv = PositionalConv(PositionalConfig(kernel, widths, weight_norm=equal)).double()
    torch.nn.init.normal_(conv.bias)
    x = torch.randn(2, frames, sum(widths), dtype=torch.float64, requires_grad=True)
    results = []
    for form in (conv._by_convolution, conv._by_spectra):
        y = form(x)
        grad = torch.linspace(-1, 1, y.numel(), dtype=torch.float64).view_as(y)
        results.append([y, *torch.autograd.grad(y, [x, *conv.parameters()], grad)])
    for ours, reference in zip(*results, strict=True):
        torch.testing.assert_close(ours, reference, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("kernel", [1, 2, 19, 95, 128])
def test_a_block_holds_the_kernel_twice(kernel):
    length = block_length(kernel)
    assert length >= 2 * kernel and length & (length - 1) == 0


def test_float32_is_as_exact_as_the_convolution():
    torch.manual_seed(0)
    x, weight = torch.randn(1, 300, 32), torch.randn(32, 8, 128) / 32
    wide = torch.nn.functional.conv1d(
        x.double().transpose(1, 2), weight.double(), padding=64, groups=4
    )[:, :, :300].transpose(1, 2)
    for dtype, limit in ((torch.float32, 2e-6), (torch.bfloat16, 2e-2)):
        y = spectral_conv(x.to(dtype), [weight], 128, 64)
        assert y.dtype == dtype
        assert (y.double() - wide).abs().max() <= limit * wide.abs().max()


def test_autocast_does_not_touch_it():
    conv = PositionalConv(PositionalConfig(16, [4, 4], weight_norm=True))
    x = torch.randn(1, 50, 8)
    with torch.autocast("cpu", torch.bfloat16):
        y = conv._by_spectra(x)
    torch.testing.assert_close(y, conv._by_spectra(x), rtol=0, atol=0)


def test_where_it_is_used():
    def used(batch, frames, kernel=128, widths=(48,) * 16, dtype=torch.float32):
        x = torch.empty(batch, frames, sum(widths), dtype=dtype)
        return positional_embedding.prefers_spectra(x, kernel, widths)

    assert not used(8, 499), "training"
    with torch.inference_mode():
        assert used(8, 499) and not used(1, 499) and used(1, 499, widths=[24] * 16)
        assert used(1, 499, widths=[*[48] * 15, 47]) and not used(1, 300, widths=[*[48] * 15, 47])
        assert not used(8, 499, kernel=19) and not used(2, 100) and not used(60, 499)
        assert not used(8, 499, dtype=torch.float64)


@torch.inference_mode()
def test_the_cpu_gets_the_same_by_spectra():
    torch.manual_seed(0)
    conv = PositionalConv(PositionalConfig(128, [5, 24, 5, 0, 17], weight_norm=False))
    x = torch.randn(2, 300, 51)
    assert positional_embedding.prefers_spectra(x, 128, conv.widths)
    torch.testing.assert_close(conv(x), conv._by_convolution(x), rtol=1e-5, atol=1e-5)
