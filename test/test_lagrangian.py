"""The constraint: its clock, its multipliers and where it settles."""

import gc

import pytest
import torch
from models import small_config

from espnet_hjprune.errors import HJPruneError
from espnet_hjprune.pruning import Pruner, PruningConfig
from espnet_hjprune.pruning.gates import GRADIENT_SCALE
from espnet_hjprune.upstream import architecture


def make(**options) -> tuple[Pruner, torch.optim.Optimizer]:
    """A pruner with its optimiser, grouped as ESPnet groups parameters by ``_optim``."""
    pruner = Pruner(small_config(), PruningConfig(**options)).train()
    parameters = [{"params": [p], **p._optim} for p in pruner.parameters()]
    return pruner, torch.optim.AdamW(parameters, lr=1e-3)


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
            late.append(pruner.expected_sparsity().detach() - pruner.constraint.target)
    assert torch.stack(late).abs().max() < 0.03


def test_wrong_optimiser_groups_are_refused():
    pruner = Pruner(small_config(), PruningConfig()).train()
    optimizer = torch.optim.AdamW(pruner.parameters(), lr=1e-3)
    pruner.regularise()[0].backward()
    with pytest.raises(HJPruneError, match="exclude_weight_decay: true"):
        optimizer.step()
    del pruner, optimizer
    gc.collect()


def test_optimisers_that_cannot_train_gates_are_refused():
    pruner = Pruner(small_config(), PruningConfig()).train()
    groups = [{"params": [p], **p._optim} for p in pruner.parameters()]
    pruner.regularise()[0].backward()
    with pytest.raises(HJPruneError, match="SGD cannot train gates"):
        torch.optim.SGD(groups, lr=0.1).step()


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
