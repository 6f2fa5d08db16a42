"""Whole prunings of a tiny model: their curves, and the page about them."""

import json

import numpy as np
import pytest
import torch

from espnet_hjprune.benchmark import constraint_dynamics as dynamics
from espnet_hjprune.benchmark.constraint_dynamics import (
    Curve,
    Setting,
    TonesModel,
    curve_table,
    read_curves,
    utterances,
)
from espnet_hjprune.bin import constraint_dynamics as command
from espnet_hjprune.errors import HJPruneError, UsageError


def test_prunings_are_run_once_and_written_to_a_page(tmp_path, monkeypatch):
    monkeypatch.setattr(dynamics, "PRETRAINING_STEPS", 2)
    options = ["--output", str(tmp_path), "--dampings", "0", "100", "--rates", "0.05"]
    options += ["--schedules", "linear", "--losses", "mean", "--steps", "61"]
    command.main(options)
    curves = read_curves(tmp_path)
    assert [c.setting.damping for c in curves] == [0, 100]
    for curve in curves:
        assert curve.step == [0, 30, 60]
        # The ramp has the paper's share of the steps.
        assert curve.target == pytest.approx([0, 0.4, 0.4]) and curve.initial_loss > 0
        assert all(0 < sparsity < 0.4 for sparsity in curve.sparsity)
        assert curve.lambda1[-1] < 0 < curve.lambda2[-1]
    page = (tmp_path / "RESULTS.md").read_text()
    assert page.count("|0.05|linear|mean|61|0.4|") == 2 and "curves.png" in page
    assert (tmp_path / "curves.png").stat().st_size > 10_000
    before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("damping*.json")}
    command.main(options)
    assert before == {path: path.stat().st_mtime_ns for path in tmp_path.glob("damping*.json")}
    (tmp_path / "damping9.json").write_text(json.dumps({"setting": {}}))
    with pytest.raises(HJPruneError, match=r"damping9.json is no curve"):
        command.main(options)


@pytest.mark.parametrize(
    ("sparsity", "settled", "overshoot", "error"),
    [
        ([0.0, 0.2, 0.401, 0.399], 2, 0.0025, -0.0025),
        ([0.0, 0.5, 0.3, 0.36], None, 0.75, -0.1),
        ([0.4, 0.4, 0.4, 0.4], 0, 1.0, 0.0),
    ],
)
def test_curves_say_where_they_settle(sparsity, settled, overshoot, error):
    target = [0.0, 0.2, 0.4, 0.4]
    curve = Curve(
        Setting(0, 0.02, "constant", "sum", 4),
        step=[0, 1, 2, 3],
        target=target,
        sparsity=sparsity,
        lambda1=[0.0] * 4,
        lambda2=[0.0] * 4,
        loss=[2.0, 8.0, 4.0, 3.0],
        initial_loss=2.0,
    )
    assert curve.settled == settled
    assert curve.overshoot == pytest.approx(overshoot)
    assert curve.error == pytest.approx(error)
    assert "|4.0|" in curve_table([curve])


def test_symbols_can_be_told_from_their_tones():
    """The spectrum of every part of an utterance peaks at the tones of its symbol."""
    wave, symbols = utterances(np.random.default_rng(3))
    parts = wave.view(*symbols.shape, -1)
    power = torch.fft.rfft(parts).abs().square()
    bins = [round(tone * parts.shape[-1] / 16000) for tone in dynamics.TONES]
    strength = torch.stack([power[..., b - 2 : b + 3].sum(-1) for b in bins], -1)
    for row in range(symbols.shape[0]):
        for place in range(symbols.shape[1]):
            heard = sorted(strength[row, place].topk(2).indices.tolist())
            pair = dynamics.SYMBOLS[symbols[row, place] - 1]
            assert tuple(dynamics.TONES[n] for n in heard) == pair


def test_the_loss_is_that_of_one_utterance_after_another():
    torch.manual_seed(0)
    model = TonesModel().eval()
    wave, symbols = utterances(np.random.default_rng(0))
    with torch.no_grad():
        together = model(wave, symbols)
        # The GroupNorm of the first layer sees one utterance at a time.
        single = [model(w[None], s[None]) for w, s in zip(wave, symbols, strict=True)]
    assert together.item() == pytest.approx(torch.stack(single).mean().item(), rel=1e-5)


def test_unknown_values_are_refused(tmp_path):
    with pytest.raises(UsageError, match="--losses takes sum and mean, not 'median'"):
        command.main(["--output", str(tmp_path / "a"), "--losses", "median"])
    with pytest.raises(UsageError, match="--steps is 0"):
        command.main(["--output", str(tmp_path / "a"), "--steps", "0"])
    assert not (tmp_path / "a").exists()
