"""Trainings whose gates are set once by scores of the units."""

from __future__ import annotations

import json

import pytest
import torch
from espnet_runs import (
    TOKENS,
    compact,
    last_epoch,
    make_corpus,
    prune_options,
    pruning_state,
    train,
)

import espnet_hjprune as hj
from espnet_hjprune.pruning.config import PruningConfig
from espnet_hjprune.pruning.importance import SETTLED


@pytest.mark.parametrize("scores", ["taylor", "magnitude"])
def test_gates_are_set_before_the_first_step_and_stay(tmp_path, caplog, scores):
    corpus = make_corpus(tmp_path / "corpus", ["wav.scp,speech,sound", "text,text,text_int"])
    options = prune_options(
        corpus,
        token_list=TOKENS,
        use_preprocessor=False,
        model_conf={"ctc_weight": 1.0},
        encoder=None,
        max_epoch=1,
    )
    options["frontend_conf"]["pruning"] = {"target_sparsity": 0.4, "scores": scores}
    caplog.set_level("INFO")
    exp = train("asr", corpus, options, tmp_path / "exp")
    assert f"Gates are set by {scores} scores of 2 utterances; loss of these" in caplog.text
    first = pruning_state(exp, "log_alpha")
    assert (first.abs() >= SETTLED - 1).all()
    # A further epoch trains the weights and leaves the gates alone.
    weight = "frontend.core.encoder.feature_projection.linear.weight"
    before = last_epoch(exp)[weight]
    options["max_epoch"] = 2
    caplog.clear()
    train("asr", corpus, options, exp, "--resume", "true")
    assert "Gates are set" not in caplog.text
    assert torch.equal(pruning_state(exp, "log_alpha"), first)
    assert not torch.equal(last_epoch(exp)[weight], before)
    compact("asr", exp, tmp_path / "compact")
    summary = json.loads((tmp_path / "compact/summary.json").read_text())
    assert summary["max_abs_diff"] <= 1e-5 and summary["scores"] == scores
    # A head of so small a model is a step of some percent.
    assert 0.4 <= summary["sparsity"]["actual"] <= 0.45
    assert summary["sparsity"]["expected"] == pytest.approx(summary["sparsity"]["actual"], abs=1e-3)


def test_no_gradient_reaches_gates_that_are_set():
    upstream = hj.random_upstream("wav2vec2_mini")
    pruner = upstream.add_gates(PruningConfig(target_sparsity=0.4, scores="magnitude"))
    upstream.train()
    features, _ = upstream(torch.randn(1, 8000), torch.tensor([8000]))
    loss, stats = pruner.regularise()
    (features.square().mean() + loss).backward()
    assert all(not parameter.grad.any() for parameter in pruner.parameters())
    assert stats["sparsity"] >= 0.4 and loss == 0
