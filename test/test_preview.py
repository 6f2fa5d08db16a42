"""The preview of a pruning against the models that it is about."""

from __future__ import annotations

import json

import pytest
import torch
import yaml
from espnet_runs import NO_OTHER_PARTS, TOKENS, build_model, make_corpus, task_module, write_table

import espnet_hjprune as hj
from espnet_hjprune.bin import preview as preview_command
from espnet_hjprune.errors import HJPruneError, UsageError
from espnet_hjprune.model.preview import PreviewOptions, preview
from espnet_hjprune.pruning.config import PruningConfig
from espnet_hjprune.pruning.cost import config_counts, macs_and_params
from espnet_hjprune.pruning.importance import settle_by_scores, taylor_scores


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A CTC model as a training leaves it, and data in ESPnet's form."""
    directory = tmp_path_factory.mktemp("exp")
    corpus = make_corpus(directory / "data", [], lengths=(9600, 8000, 8800, 8000, 9000, 8400))
    write_table(corpus.directory / "text", {f"utt{number}": "A B C" for number in range(6)})
    source = {"upstream": "wav2vec2_local", "path_or_url": str(corpus.directory / "upstream.pt")}
    config = NO_OTHER_PARTS | {
        "frontend": "hj_prune",
        "frontend_conf": {"fs": "16k", "frontend_conf": source},
        "model": "espnet",
        "model_conf": {"ctc_weight": 1.0},
        "ctc_conf": {},
        "token_list": TOKENS,
        "token_type": "word",
        "input_size": None,
        "init": None,
        "bpemodel": None,
        "non_linguistic_symbols": None,
        "cleaner": None,
        "g2p": None,
        "use_preprocessor": True,
        "preprocessor": "default",
        "preprocessor_conf": {},
    }
    torch.manual_seed(0)
    model = build_model(task_module("asr"), config)
    torch.save(model.state_dict(), directory / "model.pth")
    (directory / "config.yaml").write_text(yaml.safe_dump(config))
    return directory, model


def options_of(directory, **changes):
    given = {
        "--train_config": directory / "config.yaml", "--model_file": directory / "model.pth",
        "--data_dir": directory / "data", "--num_scored": 2, "--num_compared": 3,
        "--seconds": 1, "--rounds": 1, "--json": directory / "preview.json",
    } | changes  # fmt: skip
    return [str(word) for pair in given.items() for word in pair]


def test_the_table_is_about_the_models_that_compaction_makes(trained, capsys):
    directory, model = trained
    preview_command.main(options_of(directory))
    printed = capsys.readouterr().out
    rows = json.loads((directory / "preview.json").read_text())
    assert [row["target"] for row in rows] == [0, 0.2, 0.4, 0.6, 0.2, 0.4, 0.6]
    assert [row["scores"] for row in rows] == [""] + ["taylor"] * 3 + ["magnitude"] * 3
    assert printed.count("taylor") == 3 and "speed-up (cpu)" in printed
    dense = macs_and_params(model.frontend.core.config, None, 16000)
    assert rows[0]["macs"] == dense["macs"]
    for row in rows[1:]:
        assert row["target"] <= row["macs_removed"] <= row["target"] + 0.02
        assert row["latency"] > 0 and row["speed_up"] > 0


def test_losses_are_those_of_the_models():
    torch.manual_seed(0)
    upstream = hj.random_upstream("wav2vec2_mini").eval()
    reader = torch.nn.Linear(128, 3)

    def loss(batch):
        features, _ = upstream(batch["speech"], batch["lengths"])
        return reader(features).square().mean()

    batches = [
        {"speech": 0.1 * torch.randn(1, samples), "lengths": torch.tensor([samples])}
        for samples in (6000, 8000, 7000)
    ]
    options = PreviewOptions([0.5], scores=["taylor"], seconds=1.0, rounds=0)
    dense, cut = preview(upstream, loss, batches[:1], batches[1:], options)
    with torch.no_grad():
        expected = [loss(batch).item() for batch in batches[1:]]
        assert dense.loss == pytest.approx(sum(expected) / 2)
    assert upstream.pruner is None and dense.latency is None
    assert dense.layers["head"] == list(config_counts(upstream.config).head)

    # The same by hand: gates that are settled by the scores, compaction, and the compact model.
    pruner = upstream.add_gates(PruningConfig(target_sparsity=0.5, seconds=1.0, ramp_steps=0))

    def of_gates(values):
        with upstream.gates_held_at(values):
            return loss(batches[0])

    settle_by_scores(pruner, taylor_scores(pruner.gates, [of_gates]))
    compact = hj.compact(upstream.eval()).upstream
    with torch.no_grad():
        features = [compact(batch["speech"], batch["lengths"])[0] for batch in batches[1:]]
        by_hand = [reader(feature).square().mean().item() for feature in features]
    assert cut.loss == pytest.approx(sum(by_hand) / 2, rel=1e-4)
    assert abs(cut.loss / dense.loss - 1) > 1e-3
    assert cut.params == sum(p.numel() for p in compact.encoder.parameters())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"--num_scored": 0}, "--num_scored is a whole number from 1"),
        ({"--num_compared": 20}, "has 6 utterances, fewer than 22; lower --num_scored"),
        ({"--targets": "0.999"}, "cannot be met"),
        ({"--targets": "much"}, "--targets"),
        ({"--model_file": "none.pth"}, "none.pth does not exist"),
        ({"--task": "st"}, "--task st cannot be previewed"),
        ({"--task": "nothing"}, "ESPnet has no task nothing"),
    ],
)
def test_wrong_options_are_named(trained, changes, message):
    with pytest.raises((HJPruneError, UsageError)) as info:
        preview_command.main(options_of(trained[0], **changes))
    assert message in str(info.value)
