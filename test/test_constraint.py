"""The constraint: its clock, its multipliers and where it settles."""

import copy
import logging
import pickle

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from models import small_config

from espnet_hjprune.errors import HJPruneError
from espnet_hjprune.espnet.scheduler import LinearWarmupDecay
from espnet_hjprune.pruning.config import PruningConfig
from espnet_hjprune.pruning.optimizer import GRADIENT_SCALE, attach
from espnet_hjprune.pruning.pruner import Pruner
from espnet_hjprune.pruning.rates import summed_gate_rate
from espnet_hjprune.pruning.schedule import TargetSchedule
from espnet_hjprune.pruning.travel import check_travel, largest_step
from espnet_hjprune.upstream import architecture


def make(**options) -> tuple[Pruner, torch.optim.Optimizer]:
    """A pruner with its optimiser."""
    pruner = Pruner(small_config(), PruningConfig(**options)).train()
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.ones(1))], lr=1e-3)
    attach(pruner, optimizer)
    return pruner, optimizer


def test_the_target_follows_optimiser_steps_only():
    pruner, optimizer = make(target_sparsity=0.5, ramp_steps=10)
    seen = [pruner.constraint.current_target().item()]
    for step in range(12):
        for _ in range(3):  # accumulated batches
            (pruner.regularise()[0] / 3).backward()
        other = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=0.1)
        other.step()
        optimizer.step()
        optimizer.zero_grad()
        seen.append(pruner.constraint.current_target().item())
        assert int(pruner.constraint.num_steps) == step + 1
    assert seen == pytest.approx([0.5 * min(1, i / 10) for i in range(13)])


@settings(max_examples=100, deadline=None)
@given(
    levels=st.lists(st.floats(0.01, 0.9), min_size=1, max_size=5).map(sorted),
    ramp=st.integers(0, 20),
    hold=st.integers(0, 10),
    rise=st.integers(0, 10),
    step=st.integers(0, 120),
)
def test_the_target_rises_from_level_to_level(levels, ramp, hold, rise, step):
    schedule = TargetSchedule([[level, level / 2] for level in levels], ramp, hold, rise)
    knots, values = [0, ramp], [0.0, levels[0]]
    for level in levels[1:]:
        knots += [knots[-1] + hold, knots[-1] + hold + rise]
        values += [values[-1], level]
    # Of several knots at one place the last one counts.
    later = max((i for i, knot in enumerate(knots) if knot <= step), default=0)
    if later == len(knots) - 1:
        expected = levels[-1]
    else:
        expected = np.interp(step, knots[later : later + 2], values[later : later + 2])
    clock = torch.tensor(float(step))
    assert schedule(clock).tolist() == pytest.approx([expected, expected / 2], abs=1e-6)
    # From the end of a rise to the start of the next one.
    at_level = any(
        begin <= step <= end
        for begin, end in zip(knots[1::2], [*knots[2::2], float("inf")], strict=True)
    )
    assert bool(schedule.at_level(clock).any()) == at_level
    if at_level:
        assert levels[int(schedule.at_level(clock).int().argmax())] == pytest.approx(expected)
    else:
        assert schedule.next_level(step) == min(knot for knot in knots[1::2] if knot > step)


def test_a_curve_is_compacted_at_its_levels_only():
    options = {"earlier_targets": [0.2, 0.3], "ramp_steps": 4, "hold_steps": 2, "rise_steps": 3}
    pruner, _ = make(target_sparsity=0.5, **options)
    levels = {}
    for step in range(18):
        pruner.constraint.num_steps.fill_(step - 1)
        pruner.constraint.count_step()
        if pruner.constraint.is_on_target:
            (measure,) = pruner.current_measures()
            levels.setdefault(measure.target, []).append(step)
            _, counts = pruner.kept_units()
            removed = measure.sparsity(pruner.config, counts)
            assert measure.target <= removed < measure.target + 0.03
    assert levels == {0.2: [4, 5, 6], 0.3: [9, 10, 11], 0.5: [14, 15, 16, 17]}


@pytest.mark.parametrize(
    ("steps", "mixed", "on_target"),
    [
        ([5, 6], False, True),
        ([6, 9], True, False),
        ([5, 10, 15], True, False),
        ([3, 5], True, False),
    ],
)
def test_averages_over_epochs_with_different_targets(steps, mixed, on_target):
    options = {"earlier_targets": [0.2, 0.3], "ramp_steps": 4, "hold_steps": 2, "rise_steps": 3}
    states = []
    for step in steps:
        pruner, _ = make(target_sparsity=0.5, **options)
        pruner.constraint.num_steps.fill_(step - 1)
        pruner.constraint.count_step()
        states.append(pruner.state_dict())
    average = {name: sum(s[name] for s in states) / len(states) for name in states[0]}
    pruner.load_state_dict(average)
    assert pruner.constraint.mixes_targets == mixed
    assert pruner.constraint.is_on_target == on_target


def test_the_clock_is_saved_and_restored():
    pruner, optimizer = make(ramp_steps=100)
    for _ in range(7):
        pruner.regularise()[0].backward()
        optimizer.step()
    resumed, _ = make(ramp_steps=100)
    resumed.load_state_dict(pruner.state_dict())
    assert int(resumed.constraint.num_steps) == 7
    assert torch.equal(resumed.constraint.current_target(), pruner.constraint.current_target())
    assert torch.equal(resumed.constraint.lambda1, pruner.constraint.lambda1)


def test_lambdas_start_at_zero_and_push_towards_the_target():
    pruner, optimizer = make(target_sparsity=0.4, ramp_steps=0, initial_keep=0.99)
    loss, stats = pruner.regularise()
    assert loss.item() == 0 and stats["lambda1"] == 0 and stats["lambda2"] == 0
    assert 0 < stats["sparsity"] < 0.05
    loss.backward()
    optimizer.step()
    # Not sparse enough: lambda1 falls, which rewards sparsity; lambda2 grows.
    assert pruner.constraint.lambda1.item() < 0 < pruner.constraint.lambda2.item()


@pytest.mark.parametrize("schedule", ["constant", "linear"])
def test_gates_travel_as_far_as_is_said(schedule):
    """Adam itself, with a gradient that always closes, against the sum of the learning rates."""
    steps, warmup = 120, 20
    pruner, optimizer = make(target_sparsity=0.4, gate_lr=0.1)
    scheduler = LinearWarmupDecay(optimizer, warmup, steps, schedule)
    distance = summed_gate_rate(0.1, warmup, steps, schedule)
    predicted = pruner.expected_sparsity(distance).item()
    for _ in range(steps):
        pruner.gates.log_alpha.grad = torch.ones_like(pruner.gates.log_alpha)
        optimizer.step()
        scheduler.step()
    assert pruner.expected_sparsity().item() == pytest.approx(predicted, abs=1e-4)


def test_targets_beyond_the_gates_reach_are_refused(caplog):
    pruner, _ = make(target_sparsity=0.4, initial_keep=0.9999)
    with caplog.at_level(logging.INFO):
        check_travel(pruner, 20.0)
    assert "goes down by about 20.0 at most" in caplog.text and "beyond" not in caplog.text
    # Farther than Adam goes with an even gradient, not than it can go.
    check_travel(pruner, 5.0)
    assert "0.4 is beyond that; train for more epochs" in caplog.text
    with pytest.raises(HJPruneError, match=r"raise pruning.gate_lr 0.02 or lower"):
        check_travel(pruner, 1.0)
    allowed, _ = make(target_sparsity=0.4, initial_keep=0.9999, allow_off_target=True)
    caplog.clear()
    check_travel(allowed, 1.0)
    assert "0.4 is beyond that" in caplog.text
    control, _ = make(units=[], target_sparsity=0)
    check_travel(control, 0.0)
    separate, _ = make(criterion="sepsize", target_sparsity={"cnn": 0.9, "transformer": 0.1})
    with pytest.raises(HJPruneError, match=r"target_sparsity.cnn 0.9 is beyond"):
        check_travel(separate, 2.2)


def test_adam_moves_no_parameter_farther_than_its_largest_step():
    parameter = torch.nn.Parameter(torch.zeros(1, dtype=torch.float64))
    optimizer = torch.optim.Adam([parameter], lr=1.0, eps=1e-15)
    most = 0.0
    for step in range(5000):
        before = parameter.item()
        parameter.grad = torch.full_like(parameter, 1.0 if step == 4999 else 1e-12)
        optimizer.step()
        most = max(most, abs(parameter.item() - before))
    assert 3 < most <= largest_step((0.9, 0.999)) * 1.01


def test_gradients_are_of_the_augmented_lagrangian():
    pruner, _ = make(target_sparsity=0.4, ramp_steps=0, damping=0.5)
    with torch.no_grad():
        pruner.constraint.lambda1.fill_(-0.3)
        pruner.constraint.lambda2.fill_(0.2)
    pruner.regularise()[0].backward()
    sparsity = pruner.expected_sparsity().item()
    gap = sparsity - 0.4
    assert pruner.constraint.lambda1.grad.item() / GRADIENT_SCALE == pytest.approx(gap, rel=1e-4)
    assert pruner.constraint.lambda2.grad.item() / GRADIENT_SCALE == pytest.approx(gap**2, rel=1e-4)
    gradient = pruner.gates.log_alpha.grad / GRADIENT_SCALE
    alpha = pruner.gates.log_alpha
    (expected,) = torch.autograd.grad(pruner.expected_sparsity().sum(), alpha)
    assert torch.allclose(gradient, expected / GRADIENT_SCALE * (-0.3 + 2 * 0.7 * gap), rtol=1e-3)


@pytest.mark.parametrize("criterion", ["macs", "size", "sepsize"])
def test_training_settles_on_the_target(criterion):
    """With a task that resists removal, the expected sparsity stays near the target."""
    target = {"cnn": 0.5, "transformer": 0.3} if criterion == "sepsize" else 0.4
    torch.manual_seed(0)
    pruner, optimizer = make(criterion=criterion, target_sparsity=target, ramp_steps=200)
    importance = torch.rand(pruner.gates.log_alpha.shape) * 2e-3
    late = []
    for step in range(1500):
        task = -(importance * pruner.gates.keep_probability()).sum()
        (task + pruner.regularise()[0]).backward()
        optimizer.step()
        optimizer.zero_grad()
        if step >= 1200:
            late.append(
                pruner.expected_sparsity().detach()
                - torch.tensor(list(pruner.options.targets.values()))
            )
    assert torch.stack(late).abs().max() < 0.03


def test_gates_leave_the_groups_that_they_were_in():
    """An optimiser made of all parameters, with or without names, and one made of some."""
    for named in (False, True):
        model = torch.nn.ModuleDict({"linear": torch.nn.Linear(2, 2)})
        model["pruner"] = Pruner(small_config(), PruningConfig(gate_lr=0.03, lambda_lr=0.04))
        parameters = model.named_parameters() if named else model.parameters()
        optimizer = torch.optim.AdamW(parameters, lr=1e-3, weight_decay=0.1)
        attach(model["pruner"], optimizer)
        weights, gates, multipliers = optimizer.param_groups
        assert [id(p) for p in weights["params"]] == [id(p) for p in model["linear"].parameters()]
        assert gates["params"] == [model["pruner"].gates.log_alpha]
        assert (gates["lr"], gates["weight_decay"], gates["maximize"]) == (0.03, 0.0, False)
        assert (multipliers["lr"], multipliers["weight_decay"]) == (0.04, 0.0)
        assert multipliers["maximize"] and len(multipliers["params"]) == 2
        if named:
            assert weights["param_names"] == ["linear.weight", "linear.bias"]
            assert gates["param_names"] == ["pruner.gates.log_alpha"]
        assert weights["weight_decay"] == 0.1


def test_only_one_optimiser_of_the_right_kind_trains_gates():
    pruner, optimizer = make()
    with pytest.raises(HJPruneError, match="trains the gates already"):
        attach(pruner, optimizer)
    pruner = Pruner(small_config(), PruningConfig()).train()
    with pytest.raises(HJPruneError, match="no optimiser trains the gates"):
        pruner()
    with pytest.raises(HJPruneError, match="SGD cannot train gates"):
        attach(pruner, torch.optim.SGD(pruner.parameters(), lr=0.1))
    optimizer = torch.optim.AdamW(pruner.parameters())
    torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0)
    with pytest.raises(HJPruneError, match="before the scheduler is made"):
        attach(pruner, optimizer)
    pruner.eval()()
    pruner, _ = make()
    copied = copy.deepcopy(pruner)
    with pytest.raises(HJPruneError, match="no optimiser trains the gates"):
        copied()
    attach(copied, torch.optim.AdamW(copied.parameters()))
    copied()
    # The clock follows the last optimiser only.
    second = torch.optim.AdamW(copied.parameters())
    attach(copied, second)
    copied.regularise()[0].backward()
    second.step()
    assert int(copied.constraint.num_steps) == 1
    assert pickle.loads(pickle.dumps(copied)).attachment is None
    frozen = Pruner(small_config(), PruningConfig()).requires_grad_(False)
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.ones(1))])
    with pytest.raises(HJPruneError, match="the gates are frozen"):
        attach(frozen, optimizer)
    assert len(optimizer.param_groups) == 1


def test_fused_steps_that_a_scaler_skips_do_not_count():
    pruner = Pruner(small_config(), PruningConfig()).train()
    optimizer = torch.optim.AdamW(pruner.parameters(), fused=True)
    attach(pruner, optimizer)
    scaler = torch.amp.GradScaler("cpu")
    for spoiled in (True, False):
        scaler.scale(pruner.regularise()[0]).backward()
        if spoiled:
            pruner.gates.log_alpha.grad.fill_(torch.inf)
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
        assert int(pruner.constraint.num_steps) == (0 if spoiled else 1)


def test_averaged_checkpoints_have_an_averaged_clock():
    """ESPnet averages floats and adds integers up."""
    assert Pruner(small_config(), PruningConfig()).constraint.num_steps.is_floating_point()


def test_evaluation_gates_under_autocast_are_those_of_compaction():
    pruner = Pruner(small_config(), PruningConfig(ramp_steps=0)).eval()
    exact = pruner()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = pruner()
    assert torch.equal(exact.ffn[0], cast.ffn[0])
    assert torch.equal(exact.hidden.value, cast.hidden.value)


def test_constraint_under_autocast_is_computed_in_float32():
    pruner = Pruner(architecture("wav2vec2_base"), PruningConfig(ramp_steps=0)).train()
    exact = pruner.expected_sparsity()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss, stats = pruner.regularise()
    assert loss.dtype == torch.float32
    assert stats["sparsity"].item() == pytest.approx(exact.item(), abs=1e-7)
