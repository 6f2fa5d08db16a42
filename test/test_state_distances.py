"""Distances from the dense model against plain least squares."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from models import random_encoder, settle, small_config
from report_fixtures import write_summary

import espnet_hjprune as hj
from espnet_hjprune.bin.recipe import measure_states, unlabelled_report
from espnet_hjprune.errors import HJPruneError, UsageError
from espnet_hjprune.model.state_distances import StateComparison, StateSums
from espnet_hjprune.pruning.config import PruningConfig


def test_unexplained_variance_is_that_of_least_squares():
    generator = np.random.default_rng(0)
    mix = generator.normal(size=(5, 8))
    shares = {}
    for name, frames in (("fit", 300), ("other", 200)):
        state = generator.normal(size=(frames, 5))
        goal = state @ mix + generator.normal(size=(frames, 8)) * 0.5 + 3.0
        shares[name] = (state, goal)
    sums = {}
    for name, (state, goal) in shares.items():
        sums[name] = StateSums()
        for part in np.array_split(np.arange(len(state)), 3):
            places = torch.tensor([0, 2, 3, 5, 7])
            sums[name].add(torch.tensor(state[part]), torch.tensor(goal[part]), places)
    design = {name: np.column_stack([s, np.ones(len(s))]) for name, (s, _) in shares.items()}
    solution = np.linalg.lstsq(design["fit"], shares["fit"][1], rcond=None)[0]
    for name, (state, goal) in shares.items():
        error = ((goal - design[name] @ solution) ** 2).sum()
        expected = error / ((goal - goal.mean(0)) ** 2).sum()
        assert sums[name].unexplained(sums["fit"].linear_map()) == pytest.approx(expected, rel=1e-5)
        kept = goal[:, [0, 2, 3, 5, 7]]
        relative = ((state - kept) ** 2).sum() / (kept**2).sum()
        assert sums[name].squared_error / sums[name].kept_squares == pytest.approx(
            relative, rel=1e-9
        )


def test_a_model_is_not_far_from_itself_and_a_pruned_one_is():
    upstream = hj.SpeechUpstream(hj.UpstreamOptions(architecture=small_config()))
    upstream.encoder = random_encoder(small_config())
    gated = hj.SpeechUpstream(hj.UpstreamOptions(architecture=small_config()))
    gated.encoder.load_state_dict(upstream.encoder.state_dict())
    settle(gated.add_gates(PruningConfig(target_sparsity=0.5, ramp_steps=0)))
    pruned = hj.compact(gated.eval(), scatter=False).upstream
    same = hj.SpeechUpstream(upstream.options)
    same.encoder.load_state_dict(upstream.encoder.state_dict())
    comparison = StateComparison(upstream, {"same": same, "pruned": pruned}, "dense")
    generator = torch.Generator().manual_seed(0)
    for name in ("dev", "dev", "test"):
        comparison.add(name, torch.randn(16000, generator=generator))
    none = comparison.distances("test", "same", "dev")
    assert none.relative_l2 == pytest.approx([0.0] * len(none.relative_l2), abs=1e-9)
    assert none.unexplained == pytest.approx([0.0] * len(none.unexplained), abs=1e-5)
    # 49 frames a second.
    assert comparison.frames_per_feature("dev") == 2 * 49 / upstream.config.hidden_size
    far = comparison.distances("test", "pruned", "dev")
    assert min(far.relative_l2) > 0.01 and min(far.unexplained) > 0.001


def write_distances(path, value):
    """What a comparison leaves of a model with four hidden states."""
    path.parent.mkdir(parents=True)
    measures = {"relative_l2": [value] * 4, "unexplained": [value / 2] * 4}
    models = {"compacted": measures, "distilled": {m: [v[0] / 4] * 4 for m, v in measures.items()}}
    entry = {"utterances": 7, "seconds": 90.0, "models": models}
    record = {
        "teacher": "t", "fitted_on": "dev", "fitted_frames_per_feature": 50.3,
        "sets": {"test_clean": entry},
    }  # fmt: skip
    path.write_text(json.dumps(record))
    return path


def test_one_pruning_with_several_targets_is_reported(tmp_path, capsys):
    options = ["--output", str(tmp_path / "RESULTS.md"), "--json", str(tmp_path / "results.json")]
    for target, value in ((0.2, 0.08), (0.4, 0.2)):
        write_summary(tmp_path / f"{target}.json", target=target)
        distances = write_distances(tmp_path / f"exp{target}/distances/distances.json", value)
        options += ["--summary", str(tmp_path / f"{target}.json"), "--distances", str(distances)]
        options += ["--prune_exp", str(tmp_path / "prune")]
    (tmp_path / "prune").mkdir()
    (tmp_path / "prune/config.yaml").write_text("model_conf: {projection: true}\n")
    unlabelled_report.main(options)
    printed = capsys.readouterr().out.splitlines()
    rows = [line.split() for line in printed if "test_clean" in line]
    assert rows[0][1:] == ["20", "%", "test_clean", "8.00", "2.00", "4.00", "1.00"]
    assert rows[1][1:] == ["40", "%", "test_clean", "20.00", "5.00", "10.00", "2.50"]
    text = (tmp_path / "RESULTS.md").read_text()
    assert "|dense|74.1|0.0 %|94.37 M|912|768|" in text and "test_clean 7 (1.5 min)" in text
    assert text.count("images/distances.png") == 2
    assert "(50.3 frames a feature)" in text and "learned by projections" in text
    models = json.loads((tmp_path / "results.json").read_text())["models"]
    assert [model["target_sparsity"] for model in models] == [0.2, 0.4]
    (tmp_path / "exp0.4/distances/distances.json").write_text('{"sets": {"a": {}}}')
    with pytest.raises(
        HJPruneError, match=r"has no distances .*/distances/\.done and rerun stage 7"
    ):
        unlabelled_report.main(options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"--model": "exp"}, "--model 'exp' is not of the form NAME=PATH"),
        ({"--sets": "a=none.scp"}, "none.scp does not exist"),
        ({"--num_utterances": "0"}, "--num_utterances is a whole number from 1"),
        ({"--model": "a=none/model.pth"}, "none/config.yaml"),
    ],
)
def test_wrong_options_are_named(tmp_path, options, message):
    scp = tmp_path / "wav.scp"
    scp.write_text("utt utt.wav\n")
    given = {
        "--teacher": "dense", "--model": f"a={tmp_path}/model.pth", "--fit_on": f"dev={scp}",
        "--sets": f"test={scp}", "--output": str(tmp_path / "out.json"),
    } | options  # fmt: skip
    with pytest.raises((HJPruneError, UsageError)) as info:
        measure_states.main([word for pair in given.items() for word in pair])
    assert message in str(info.value)
    assert not (tmp_path / "out.json").exists()
