"""Gates that miss their target: said at the end of a pruning, refused by the compaction."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch
import yaml
from models import settle, small_config

import espnet_hjprune as hj
from espnet_hjprune.bin import compact as compact_command
from espnet_hjprune.bin.recipe import target_distance
from espnet_hjprune.model.espnet_config import NAME
from espnet_hjprune.model.target_distance import TargetDistance
from espnet_hjprune.pruning.config import PruningConfig

SEPARATE = {"cnn": 0.6, "transformer": 0.3}


def gated(sparsity: float, target: float = 0.4) -> hj.SpeechUpstream:
    """An upstream whose gates have this expected sparsity."""
    torch.manual_seed(0)
    upstream = hj.SpeechUpstream(hj.UpstreamOptions(architecture=small_config()))
    pruner = upstream.add_gates(PruningConfig(target_sparsity=target, ramp_steps=0))
    with torch.no_grad():
        pruner.gates.log_alpha.normal_(0, 3)
    settle(pruner, sparsity)
    return upstream.eval()


def saved(upstream: hj.SpeechUpstream, directory: Path) -> list[str]:
    """Write a gated model as a training does; the options that name it."""
    directory.mkdir(parents=True, exist_ok=True)
    assert upstream.pruner is not None
    options = upstream.pruner.options
    pruning = {
        name: getattr(options, name)
        for name in ("criterion", "target_sparsity", "earlier_targets", "ramp_steps", "hold_steps")
    }
    conf = {"frontend_conf": {"architecture": upstream.config.to_dict()}, "pruning": pruning}
    config = {"frontend": NAME, "frontend_conf": conf, "encoder": None, "token_list": ["a"]}
    (directory / "config.yaml").write_text(yaml.safe_dump(config))
    state = {f"frontend.core.{name}": value for name, value in upstream.state_dict().items()}
    torch.save(state, directory / "3epoch.pth")
    return [f"--train_config={directory}/config.yaml", f"--model_file={directory}/3epoch.pth"]


def test_a_target_of_zero_is_met_but_for_rounding():
    # The control of conf/small: what its gates should remove and do differs by this much.
    assert not TargetDistance("", -2.8e-17, 0.0).is_far
    assert TargetDistance("", 1e-3, 0.0).is_far


@pytest.mark.parametrize(
    ("sparsity", "target", "says"),
    [
        (0.4, 0.4, "nothing"),
        (0.404, 0.4, "nothing"),
        (0.362, 0.4, "warns"),
        (0.45, 0.4, "warns"),
        (0.31, 0.4, "warns"),
        (0.29, 0.4, "refuses"),
        (0.51, 0.4, "refuses"),
        (0.03, 0.4, "refuses"),
        (0.06, 0.1, "warns"),
        (0.04, 0.1, "refuses"),
    ],
)
def test_the_distance_decides(sparsity, target, says, caplog):
    upstream = gated(sparsity, target)
    figures = f"the expected sparsity is {sparsity:.3f}, the target {target}; prune for more epochs"
    remedy = "raise gate_lr and lambda_lr" if sparsity < target else "raise damping"
    if says == "refuses":
        with pytest.raises(hj.HJPruneError) as refusal:
            hj.compact(upstream)
        assert figures in str(refusal.value) and remedy in str(refusal.value)
        assert "with the option allow_off_target true" in str(refusal.value)
        assert not caplog.records
    result = hj.compact(upstream, allow_off_target=says == "refuses")
    assert result.summary["sparsity"]["expected"] == pytest.approx(sparsity, abs=1e-4)
    assert target <= result.summary["sparsity"]["actual"] <= target + 0.01
    warnings = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    if says == "nothing":
        assert not warnings
    else:
        (warning,) = warnings
        assert figures in warning and remedy in warning


def test_parts_are_judged_for_themselves(caplog):
    torch.manual_seed(0)
    upstream = hj.SpeechUpstream(hj.UpstreamOptions(architecture=small_config()))
    options = PruningConfig(criterion="sepsize", target_sparsity=SEPARATE, ramp_steps=0)
    pruner = upstream.add_gates(options)
    with pytest.raises(hj.HJPruneError) as refusal:
        hj.compact(upstream.eval())
    expected = dict(zip(SEPARATE, pruner.expected_sparsity().tolist(), strict=True))
    for part, target in SEPARATE.items():
        figures = f"the expected sparsity of {part} is {expected[part]:.3f}, the target {target}"
        assert figures in str(refusal.value)
    # One part on its target, the other not.
    with torch.no_grad():
        for group in pruner.gates.groups:
            pruner.gates.log_alpha[group.slice] = -1.0 if group.unit == "conv" else 4.0
        low, high = -9.0, 9.0
        for _ in range(50):
            middle = (low + high) / 2
            for group in pruner.gates.groups:
                if group.unit == "conv":
                    pruner.gates.log_alpha[group.slice] = middle
            low, high = (middle, high) if pruner.expected_sparsity()[0] > 0.6 else (low, middle)
    with pytest.raises(hj.HJPruneError, match="far from their target: the expected sparsity of tr"):
        hj.compact(upstream)


def test_the_command_refuses_and_writes_nothing(tmp_path):
    arguments = [*saved(gated(0.03), tmp_path / "exp"), f"--output_dir={tmp_path / 'out'}"]
    with pytest.raises(
        hj.HJPruneError, match=r"sparsity is 0\.030, the target 0\.4; prune for more"
    ):
        compact_command.main(arguments)
    assert not (tmp_path / "out").exists()
    compact_command.main([*arguments, "--allow_off_target", "true"])
    assert (tmp_path / "out" / "summary.json").is_file()


def at_the_end(upstream: hj.SpeechUpstream, directory: Path, caplog) -> logging.LogRecord:
    """What the end of a pruning logs of it."""
    caplog.set_level(logging.INFO)
    caplog.clear()
    target_distance.main(saved(upstream, directory))
    (record,) = (record for record in caplog.records if record.module == "target_distance")
    return record


def test_the_end_of_a_pruning_says_it(tmp_path, caplog):
    record = at_the_end(gated(0.398), tmp_path, caplog)
    assert record.levelno == logging.INFO
    figures = "the expected sparsity is 0.398, the target 0.4"
    assert record.getMessage() == f"Gates of 3epoch.pth: {figures}"
    record = at_the_end(gated(0.36), tmp_path, caplog)
    assert record.levelno == logging.WARNING
    assert record.getMessage() == (
        "The gates of 3epoch.pth are off their target: the expected sparsity is 0.360, the target "
        "0.4; prune for more epochs, or raise gate_lr and lambda_lr"
    )
    said = at_the_end(gated(0.03), tmp_path, caplog).getMessage()
    assert said.endswith("; stage 5 refuses them without --allow_off_target true")


def test_a_pruning_that_has_diverged_says_so(tmp_path, caplog):
    upstream = gated(0.4)
    with torch.no_grad():
        upstream.pruner.gates.log_alpha[3] = torch.nan
    said = at_the_end(upstream, tmp_path, caplog).getMessage()
    assert "sparsity is nan, the target 0.4; the training has diverged, so prune again" in said
    with pytest.raises(hj.HJPruneError, match="the gates are no numbers"):
        hj.compact(upstream)


def test_several_targets_are_judged_at_their_own(tmp_path, caplog):
    torch.manual_seed(0)
    upstream = hj.SpeechUpstream(hj.UpstreamOptions(architecture=small_config()))
    schedule = {"ramp_steps": 0, "hold_steps": 5}
    pruner = upstream.add_gates(
        PruningConfig(target_sparsity=0.4, earlier_targets=[0.2], **schedule)
    )
    settle(pruner, 0.2)
    pruner.constraint.count_step(2)
    said = at_the_end(upstream, tmp_path, caplog).getMessage()
    assert said == "Gates of 3epoch.pth: the expected sparsity is 0.200, the target 0.2"
    pruner.constraint.count_step(8)
    said = at_the_end(upstream, tmp_path, caplog).getMessage()
    assert "the expected sparsity is 0.200, the target 0.4; prune for" in said
