"""The hard-concrete distribution and the flat gate tensor."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from models import attached, random_pruner, small_config

from espnet_hjprune.errors import HJPruneError
from espnet_hjprune.pruning import hard_concrete
from espnet_hjprune.pruning.config import INITIAL_KEEP, UNITS, PruningConfig
from espnet_hjprune.pruning.gates import GateSet
from espnet_hjprune.pruning.optimizer import attach

BETA, STRETCH = 2 / 3, (-0.1, 1.1)


@settings(max_examples=20, deadline=None)
@given(st.floats(-8, 8))
def test_distribution_against_sampling(log_alpha):
    torch.manual_seed(0)
    draws = hard_concrete.sample(torch.full((200_000,), log_alpha), BETA, STRETCH)
    value = torch.tensor([log_alpha])
    assert draws.min() >= 0 and draws.max() <= 1
    open_share = (draws != 0).float().mean().item()
    assert open_share == pytest.approx(
        hard_concrete.keep_probability(value, BETA, STRETCH).item(), abs=0.006
    )
    mean = hard_concrete.mean(value, BETA, STRETCH).item()
    assert draws.mean().item() == pytest.approx(mean, abs=0.006)


def test_mean_against_fine_integration():
    log_alpha = torch.linspace(-12, 12, 97, dtype=torch.float64)
    u = (torch.arange(400_000, dtype=torch.float64) + 0.5) / 400_000
    v = torch.sigmoid((torch.logit(u) + log_alpha[:, None]) / BETA)
    low, high = STRETCH
    exact = (v * (high - low) + low).clamp(0, 1).mean(1)
    assert (hard_concrete.mean(log_alpha, BETA, STRETCH) - exact).abs().max() < 1e-5


def test_keep_probability_is_the_papers_equation_3():
    log_alpha = torch.tensor([-2.0, 0.0, 3.0])
    expected = [1 / (1 + math.exp(-(a - BETA * math.log(0.1 / 1.1)))) for a in (-2.0, 0.0, 3.0)]
    assert torch.allclose(
        hard_concrete.keep_probability(log_alpha, BETA, STRETCH), torch.tensor(expected)
    )


def test_numbers_without_a_dot_are_read():
    """YAML takes 2e-2 for a text."""
    options = PruningConfig.from_dict({"gate_lr": "2e-2", "units": "conv, head"})
    assert options.gate_lr == 0.02 and options.units == ["conv", "head"]


def test_gates_start_near_dense():
    gates = GateSet(small_config(), PruningConfig(initial_keep=0.97))
    assert gates.keep_probability().mean().item() == pytest.approx(0.97, abs=0.002)


def test_kinds_of_units_start_with_their_own_probability():
    chosen = {"head": 0.8, "conv": "0.95"}
    gates = GateSet(small_config(), PruningConfig.from_dict({"initial_keep": chosen}))
    keep = gates.keep_probability()
    expected = INITIAL_KEEP | {"head": 0.8, "conv": 0.95}
    for group in gates.groups:
        assert keep[group.slice].mean().item() == pytest.approx(expected[group.unit], rel=0.004)


def test_log_alpha_is_held_within_its_limit():
    pruner = random_pruner(small_config(), initial_keep=0.9, log_alpha_limit=1.5).train()
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.ones(1))])
    attach(pruner, optimizer)
    with torch.no_grad():
        pruner.gates.log_alpha.copy_(torch.linspace(-9, 9, pruner.gates.log_alpha.numel()))
    pruner.regularise()[0].backward()
    optimizer.step()
    assert pruner.gates.log_alpha.min() == -1.5 and pruner.gates.log_alpha.max() == 1.5
    with pytest.raises(HJPruneError, match=r"gates of conv .* start at 2.29; raise it, or lower"):
        GateSet(small_config(), PruningConfig(initial_keep=0.98, log_alpha_limit=2.0))


def test_evaluation_gates_follow_log_alpha():
    pruner = random_pruner(small_config(), target_sparsity=0.5)
    before = pruner()
    state = {name: tensor.clone() for name, tensor in pruner.state_dict().items()}
    state["gates.log_alpha"] = state["gates.log_alpha"].flip(0)
    pruner.load_state_dict(state)
    after = pruner()
    assert not torch.equal(before.conv[0].value, after.conv[0].value)
    with torch.no_grad():
        pruner.gates.log_alpha.mul_(-1)
    assert not torch.equal(after.conv[0].value, pruner().conv[0].value)


@pytest.mark.parametrize("inside", [["head", "ffn"], ["ffn"], []])
def test_gates_of_whole_layers_multiply_those_inside(inside):
    units = ["conv", *inside, "attention_layer", "ffn_layer"]
    gates = GateSet(small_config(), PruningConfig(units=units, target_sparsity=0.1))
    flat = torch.linspace(0.1, 1.0, len(gates.log_alpha))
    parts = {(group.unit, group.layer): flat[group.slice] for group in gates.groups}
    values = gates.values(flat)
    sizes = {"head": 4, "ffn": 96}
    for unit, layers in (("head", "attention_layer"), ("ffn", "ffn_layer")):
        for layer in range(3):
            own = parts.get((unit, layer), torch.ones(sizes[unit]))
            expected = own * parts[layers, 0][layer]
            assert torch.equal(getattr(values, unit)[layer], expected)
    assert torch.equal(values.conv[0].value, parts["conv", 0])


def test_training_gates_are_random_and_evaluation_gates_are_not():
    pruner = random_pruner(small_config(), target_sparsity=0.5)
    assert torch.equal(pruner().ffn[0], pruner().ffn[0])
    attached(pruner)
    assert not torch.equal(pruner().ffn[0], pruner().ffn[0])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"units": ["conv", "heads"]}, "units has no heads"),
        ({"units": []}, "units is empty"),
        ({"criterion": "flops"}, "criterion has no flops"),
        ({"target_sparsity": 0.0}, "target_sparsity is 0; it must"),
        ({"target_sparsity": -0.1}, "target_sparsity is -0.1"),
        ({"target_sparsity": 1.5}, "target_sparsity is 1.5"),
        ({"target_sparsity": "half"}, "target_sparsity is half"),
        ({"criterion": "sepsize"}, "cnn and one for transformer"),
        ({"criterion": "sepsize", "target_sparsity": {"cnn": 0.5}}, "cnn and one for"),
        ({"criterion": "sepsize", "target_sparsity": {"cnn": 0.5, "transformer": 2}}, "is 2"),
        ({"target_sparsity": {"cnn": 0.5, "transformer": 0.5}}, "is one number"),
        ({"ramp_steps": -1}, "ramp_steps"),
        ({"hold_steps": -1}, "hold_steps"),
        ({"earlier_targets": 0.2}, "not a list"),
        ({"earlier_targets": [0.2, 0.1]}, r"earlier_targets\[1\] is 0.1, below the 0.2 before"),
        ({"earlier_targets": [0.5]}, "target_sparsity is 0.4, below the 0.5 before it"),
        ({"earlier_targets": [{"cnn": 0.1}]}, r"earlier_targets\[0\] is one number"),
        ({"earlier_targets": ["x"]}, r"earlier_targets\[0\] is x"),
        ({"initial_keep": 1.0}, "initial_keep is 1.0"),
        ({"initial_keep": {"conv": 0.0}}, r"initial_keep.conv is 0.0"),
        ({"initial_keep": {"heads": 0.9}}, "initial_keep has no heads"),
        ({"initial_keep": "much"}, "initial_keep is 'much', which is no number"),
        ({"log_alpha_limit": -1}, "log_alpha_limit"),
        ({"stretch": [0.0, 1.0]}, "stretch"),
        ({"stretch": 0.1}, "stretch is 0.1"),
        ({"round_to": 0}, "round_to"),
        ({"units": list(UNITS), "uniform": True}, "leave attention_layer and ffn_layer out"),
        ({"scores": "random"}, "scores has no random"),
        ({"scores": "taylor", "earlier_targets": [0.2]}, "leave pruning.earlier_targets out"),
        ({"ramp_step": 10}, "no option ramp_step"),
    ],
)
def test_wrong_options_are_refused(options, message):
    with pytest.raises(HJPruneError, match=message):
        PruningConfig.from_dict(options)
