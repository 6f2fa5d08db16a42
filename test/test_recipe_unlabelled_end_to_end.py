"""The recipe without labels on a tiny corpus: all stages, and a result that is an upstream."""

import json

import pytest
import soundfile
import torch
import yaml
from recipe_runs import RecipeCopy, copy_recipe, read_text

import espnet_hjprune as hj

SETTINGS = [
    "--mini", "true", "--ramp_epochs", "1", "--mini_pretrain_epochs", "0",
    "--mini_opts", "--num_train 24 --num_dev_clean 3 --num_dev_other 3 --num_test_clean 4 "
    "--num_test_other 4 --num_test_tedlium 1 --nj 2",
    "--test_sets", "test_clean", "--num_compared", "3", "--allow_off_target", "true",
    "--prune_args", "--max_epoch 2 --num_workers 0 --model_conf projection=true",
    "--compact_args", "--max_epoch 1 --num_workers 0",
]  # fmt: skip


@pytest.fixture(scope="module")
def recipe(tmp_path_factory) -> RecipeCopy:
    """A copy of the recipe."""
    return copy_recipe(tmp_path_factory.mktemp("checkout"), "librispeech_100/ssl1", *SETTINGS)


def relative_distance(teacher, model, waves) -> list[float]:
    """Squared distance over squares by hidden state, from the definition."""
    places = [teacher.config.dense_features.index(f) for f in model.config.dense_features]
    parts = [[0.0, 0.0] for _ in range(len(model.config.heads) + 1)]
    for wave in waves:
        lengths = torch.tensor([len(wave)])
        with torch.no_grad():
            own, goals = (m(wave[None], lengths, all_states=True)[0] for m in (model, teacher))
        for part, state, goal in zip(parts, own, goals, strict=True):
            part[0] += (state - goal[..., places]).double().square().sum().item()
            part[1] += goal[..., places].double().square().sum().item()
    return [difference / squares for difference, squares in parts]


def test_all_stages(recipe):
    output = recipe.run()
    assert "unexplained variance" in output and "--upstream hj_prune_local" in output
    # No text is read or kept.
    dumped = {path.name for path in recipe.only("dump/mini/raw/train_clean_100").iterdir()}
    assert not dumped & {"text", "utt2spk"}

    teacher = hj.load(recipe.only("exp/ssl_teacher_*/model"))
    prune_exp, exp = recipe.only("exp/ssl_prune_*"), recipe.only("exp/ssl_compact_*")
    log = (prune_exp / "train.log").read_text()
    # The student begins as its teacher.
    assert "first batch: 0 without gates" in log
    summary = json.loads((prune_exp / "compact/summary.json").read_text())
    assert summary["max_abs_diff"] <= 1e-5
    assert 0.995 <= summary["actual"]["macs"] / summary["target"]["macs"] <= 1.0
    config = yaml.safe_load((exp / "config.yaml").read_text())
    assert config["model_conf"]["projection"] is True
    encoder = hj.load(exp)
    assert encoder.config.to_dict() == config["frontend_conf"]["frontend_conf"]["architecture"]
    # Learned projections go on with what is left.
    weight = torch.load(exp / "latest.pth")["teaching.projections.0.weight"]
    assert weight.shape == (teacher.config.hidden_size, encoder.config.hidden_size)

    found = json.loads((exp / "distances/distances.json").read_text())["sets"]["test_clean"]
    table = list(read_text(recipe.only("dump/mini/raw/test_clean/wav.scp")).values())
    waves = [
        torch.from_numpy(soundfile.read(recipe.directory / table[index], dtype="float32")[0])
        for index in (0, 1, 2)  # 3 of 4, evenly spread
    ]
    assert found["utterances"] == 3
    for name, model in (("compacted", hj.load(prune_exp / "compact")), ("distilled", encoder)):
        expected = relative_distance(teacher, model, waves)
        assert found["models"][name]["relative_l2"] == pytest.approx(expected, rel=1e-4)
    results = (exp / "RESULTS.md").read_text()
    assert "|HJ-Pruning-MAC 40 %|test_clean|" in results and "distances.png" in results
    assert (exp / "images/distances.png").stat().st_size > 10_000
    assert json.loads((exp / "results.json").read_text())["models"][0]["distances"]

    # The result is an upstream.
    upstream = hj.load_upstream("hj_prune_local", str(exp / "upstream"))
    assert upstream.config == encoder.config
    output = recipe.run("--stage", "3")
    assert output.count("is finished already; skipping") == 7


def test_another_corpus_is_audio_alone(recipe):
    data = recipe.directory / "data/talks"
    data.mkdir()
    transcripts = recipe.directory / "data/train_clean_100/text"
    transcripts.write_text(transcripts.read_text().replace("A", "B"))
    wav_scp = (recipe.directory / "data/dev/wav.scp").read_text()
    (data / "wav.scp").write_text(wav_scp)
    elsewhere = ("--train_set", "talks", "--dumpdir", "other", "--expdir", "other_exp")
    recipe.run("--stage", "2", "--stop_stage", "2", *elsewhere)
    assert len(read_text(recipe.only("other/mini/raw/talks/wav.scp"))) == 6
    # Transcripts count for nothing.
    output = recipe.run("--stage", "2", "--stop_stage", "4")
    assert "moving it to" not in output and output.count("skipping") == 7
