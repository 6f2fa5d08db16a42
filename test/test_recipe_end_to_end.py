"""The real recipe on a tiny synthetic corpus: all stages, ESPnet, sclite, kill and resume."""

import json
from pathlib import Path

import jiwer
import pytest
import torch
import yaml
from recipe_runs import RecipeCopy, copy_recipe, read_text, sclite_error_rate

from espnet_hjprune.scoring.decoding_time import read_decoding_time

MINI = (
    "--num_train 48 --num_dev_clean 4 --num_dev_other 4 --num_test_clean 6 --num_test_other 4 "
    "--num_test_tedlium 4 --nj 2"
)
SETTINGS = [
    "--mini", "true", "--mini_opts", MINI, "--test_sets", "test_clean", "--inference_nj", "1",
    "--audio_format", "flac.ark", "--token_type", "bpe", "--nbpe", "40", "--ramp_epochs", "1",
    "--allow_off_target", "true",
    "--train_args", "--max_epoch 2 --num_workers 0",
    "--prune_args", "--max_epoch 3 --num_workers 0",
    "--compact_args", "--max_epoch 2 --num_workers 0",
]  # fmt: skip


@pytest.fixture(scope="module")
def recipe(tmp_path_factory) -> RecipeCopy:
    """A copy of the recipe."""
    return copy_recipe(tmp_path_factory.mktemp("checkout"), "librispeech_100/asr1", *SETTINGS)


def test_all_stages_with_interruptions(recipe):
    recipe.run("--stage", "1", "--stop_stage", "2")
    # The training of stage 3 survives its parent's death and must not disturb the next run.
    recipe.kill_in_training(3, "exp/asr_train_*")
    recipe.run("--stage", "3", "--stop_stage", "3")
    recipe.kill_in_training(4, "exp/asr_prune_*")
    output = recipe.run("--stage", "4", "--stop_stage", "5")
    # So few steps move no gates; compaction closes what it needs, as it was told to.
    off = "The gates of 3epoch.pth are off their target: the expected sparsity is 0."
    assert off in output.partition("Stage 4: finished")[0].splitlines()[-2]
    recipe.kill_in_training(6, "exp/asr_compact_*")
    output = recipe.run("--stage", "3")
    assert "is finished already; skipping" in output

    prune_exp = recipe.only("exp/asr_prune_*")
    checkpoint = torch.load(prune_exp / "checkpoint.pth", weights_only=False)
    config = yaml.safe_load((prune_exp / "config.yaml").read_text())
    steps = int(checkpoint["model"]["frontend.core.pruner.constraint.num_steps"])
    assert steps == config["scheduler_conf"]["total_steps"]
    assert steps == checkpoint["schedulers"][0]["last_epoch"]
    assert config["frontend_conf"]["pruning"]["ramp_steps"] * 3 == steps
    assert (prune_exp / "train.1.log").is_file()

    summary = json.loads((prune_exp / "compact" / "summary.json").read_text())
    assert summary["max_abs_diff"] <= 1e-5
    assert summary["target"]["macs"] == pytest.approx(0.6 * summary["dense"]["macs"], rel=1e-9)
    assert 0.995 <= summary["actual"]["macs"] / summary["target"]["macs"] <= 1.0

    exp = recipe.only("exp/asr_compact_*")
    results = (exp / "RESULTS.md").read_text()
    assert "|dataset|Snt|Wrd|Corr|Sub|Del|Ins|Err|S.Err|" in results
    assert f"{summary['actual']['macs'] / 1e9:.2f}" in results
    for image in ("architecture.png", "pruning.png"):
        assert (prune_exp / "images" / image).stat().st_size > 10_000

    decoded = recipe.only("exp/asr_compact_*/decode_batched_*/test_clean")
    for name in ("text", "token", "token_int", "score"):
        assert (decoded / name).is_file()
    for name in ("score_wer/result.txt", "score_cer/result.txt", "score_ter/result.txt"):
        assert (decoded / name).is_file()
    check_against_jiwer(recipe, decoded)
    recipe.run("--stage", "7", "--decoder", "espnet")
    for exp_name in ("asr_train", "asr_compact"):
        batched, stock = (
            recipe.only(f"exp/{exp_name}_*/decode_{decoder}_*/test_clean")
            for decoder in ("batched", "espnet")
        )
        # Where there are as many tokens as frames, ESPnet writes <sos/eos> among them.
        last = f" {len(config['token_list']) - 1}"
        for name, end in (("text", "<sos/eos>"), ("token", " <sos/eos>"), ("token_int", last)):
            lines = [
                [
                    line.strip().removesuffix(end).strip()
                    for line in (d / name).read_text().splitlines()
                ]
                for d in (batched, stock)
            ]
            assert lines[0] == lines[1]
        assert read_decoding_time(batched).utterances == read_decoding_time(stock).utterances == 6

    for finished in ("exp/asr_train_*", "exp/asr_compact_*"):
        saved = recipe.only(finished) / "config.yaml"
        assert yaml.safe_load(saved.read_text())["frontend_conf"]["frontend_conf"]["architecture"]
    assert "skipping" in recipe.run("--stage", "5")
    # What was fine-tuned alone, as a model that was pruned before is.
    output = recipe.run("--stage", "4", "--method", "none")
    assert output.count("Nothing is pruned (--method none)") == 3
    results = recipe.only("exp/asr_train_*/RESULTS.md").read_text()
    dense = f"|fine-tuned|{summary['dense']['macs'] / 1e9:.3g}|-|"
    assert dense in results and "Shares removed" not in results


def losses(exp: Path) -> dict[int, float]:
    """The training losses of all epochs, to the last bit."""
    stats = torch.load(exp / "checkpoint.pth", weights_only=False)["reporter"]["stats"]
    return {epoch: float(parts["train"]["loss"]) for epoch, parts in stats.items()}


def test_a_training_with_more_epochs_goes_on(recipe):
    if not list(recipe.directory.glob("exp/asr_compact_*/.done")):
        pytest.skip("needs the stages of the first test")
    # Once in the configuration, which stage 5 completes, and once as an option.
    configuration = recipe.directory / "conf/mini/finetune.yaml"
    text = configuration.read_text()
    configuration.write_text(text.replace("max_epoch: 4\n", "max_epoch: 3\n"))
    by_file = ("--stage", "5", "--stop_stage", "6", "--compact_args", "--num_workers 0")
    by_option = ("--stage", "4", "--stop_stage", "5")
    by_option += ("--prune_args", "--max_epoch 4 --num_workers 0")
    for stage, options, epochs in (("compact", by_file, 3), ("prune", by_option, 4)):
        exp = recipe.only(f"exp/asr_{stage}_*")
        before, finished = losses(exp), (exp / ".done").read_text()
        logs = {path: path.read_text() for path in exp.glob("train.*log")}
        output = recipe.run(*options)
        goes_on = f"goes on where it was, to {epochs} epochs instead of {epochs - 1}"
        assert output.count(goes_on) == 1
        after = losses(exp)
        assert list(after) == [*before, epochs]
        assert all(after[epoch] == loss for epoch, loss in before.items())
        log = (exp / "train.log").read_text()
        assert f"{epochs}/{epochs}epoch started" in log and log.count("epoch started") == 1
        assert f"The training has {3 * epochs} steps in all, no longer {3 * (epochs - 1)}" in log
        assert set(logs.values()) < {path.read_text() for path in exp.glob("train.*log")}
        checkpoint = torch.load(exp / "checkpoint.pth", weights_only=False)
        assert checkpoint["schedulers"][0]["last_epoch"] == 3 * epochs
        assert checkpoint["schedulers"][0]["total_steps"] == 3 * epochs
        assert (exp / f"{epochs}epoch.pth").is_file() and (exp / ".done").read_text() != finished
        # The compaction needs no repetition for the one, and is repeated for the other.
        made = output.count("compact was made with other options or inputs")
        assert made == (1 if stage == "prune" else 0)
    summary = json.loads((exp / "compact" / "summary.json").read_text())
    assert summary["max_abs_diff"] <= 1e-5
    configuration.write_text(text)


def test_new_data_start_over_only_what_they_concern(recipe, monkeypatch):
    until_training = ("--stage", "1", "--stop_stage", "3", "--test_sets", "test_clean test_other")
    recipe.run(*until_training)
    monkeypatch.setenv("LIBRISPEECH", "/elsewhere")
    output = recipe.run(*until_training)
    assert "data/.stage1 was made with other options or inputs" in output
    assert output.count("was made with other options or inputs") == 1
    audio = read_text(recipe.directory / "data/test_other/wav.scp")
    path = recipe.directory / next(iter(audio.values()))
    path.touch()
    output = recipe.run(*until_training)
    assert "raw/.test_other was made with other options or inputs" in output
    assert output.count("was made with other options or inputs") == 1
    # Shapes, and so all trainings, follow the audio even where their tables stay the same.
    audio = read_text(recipe.directory / "data/train_clean_100/wav.scp")
    (recipe.directory / next(iter(audio.values()))).touch()
    output = recipe.run("--stage", "2", "--stop_stage", "2")
    for made in ("raw/.train_clean_100", "asr_stats_raw_en_bpe40_mini/train"):
        assert f"{made} was made with other options or inputs" in output
    assert output.count("was made with other options or inputs") == 2


@pytest.mark.slow
def test_a_sweep_with_a_curve_from_one_pruning(recipe):
    names = [word.removeprefix("--") for word in SETTINGS[::2]]
    sweep = {
        "name": "curve",
        "options": dict(zip(names, SETTINGS[1::2], strict=True)) | {"hold_epochs": 1},
        "methods": {"curve": {"method": "macs"}},
        "grids": [{"methods": ["curve"], "targets": ["0.2 0.4"], "seeds": [3]}],
    }
    (recipe.directory / "sweep.yaml").write_text(yaml.safe_dump(sweep))
    recipe.run_module("espnet_hjprune.bin.sweep", "--config", "sweep.yaml")

    prune_exp = recipe.only("exp/asr_prune_macs_to_0.2_0.4_seed3_*")
    config = yaml.safe_load((prune_exp / "config.yaml").read_text())
    pruning, steps = config["frontend_conf"]["pruning"], config["scheduler_conf"]["total_steps"]
    assert config["seed"] == 3 and config["max_epoch"] == 4
    assert pruning["earlier_targets"] == [0.2] and pruning["target_sparsity"] == 0.4
    assert pruning["ramp_steps"] == pruning["hold_steps"] == pruning["rise_steps"] == steps / 4
    compact = []
    for target in (0.2, 0.4):
        summary = json.loads((prune_exp / f"compact_{target}" / "summary.json").read_text())
        assert summary["target_sparsity"] == target and summary["max_abs_diff"] <= 1e-5
        assert target <= summary["sparsity"]["actual"] <= target + 0.005
        exp = recipe.only(f"exp/asr_compact_macs_to_0.2_0.4_seed3_at_{target}_*")
        assert yaml.safe_load((exp / "config.yaml").read_text())["seed"] == 3
        score = exp.joinpath("decode_batched_valid.loss.ave/test_clean/score_wer/result.txt")
        compact.append((summary["actual"]["macs"], sclite_error_rate(score)))

    (point,) = (recipe.directory / "exp/sweep_curve").glob("*/results.json")
    models = json.loads(point.read_text())["models"]
    assert [model["name"] for model in models[1:]] == ["HJ-Pruning-MAC 20 %", "HJ-Pruning-MAC 40 %"]
    for model, (macs, error_rate) in zip(models[1:], compact, strict=True):
        assert model["macs"] == macs
        assert model["values"]["test_clean"] == pytest.approx(error_rate, abs=0.06)
    table = (recipe.directory / "exp/sweep_curve/RESULTS.md").read_text()
    assert "|curve|0.2|1|" in table and "|curve|0.4|1|" in table


def check_against_jiwer(recipe: RecipeCopy, decoded: Path) -> None:
    """The error rate that sclite printed is the one that jiwer computes."""
    reference = read_text(recipe.directory / "dump/mini/raw/test_clean/text")
    hypothesis = read_text(decoded / "text")
    assert hypothesis.keys() == reference.keys()
    wer = jiwer.wer(list(reference.values()), [hypothesis[utterance] for utterance in reference])
    printed = sclite_error_rate(decoded / "score_wer" / "result.txt")
    assert printed == pytest.approx(100 * wer, abs=0.06)


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["--no_such", "1"], 2, "there is no option --no_such"),
        (["--stage"], 2, "--stage needs a value"),
        (["train"], 2, "argument 'train' is not expected"),
        (["--stage", "5", "--target_sparsity", "1"], 2, "must lie between 0 and 1"),
        (["--upstream_ckpt", "none.pt", "--mini", "false"], 1, "none.pt does not exist"),
        (["--stage", "3", "--expdir", "else", "--dumpdir", "where"], 1, "run stage 2 first"),
        (["--stage", "4", "--expdir", "elsewhere"], 1, "run stage 3 first"),
        (["--stage", "5", "--expdir", "elsewhere"], 1, "run stage 4 first"),
        (["--stage", "6", "--expdir", "elsewhere"], 1, "run stage 5 first"),
        (["--stage", "7", "--expdir", "elsewhere"], 1, "run stage 3 first"),
        (["--stage", "2", "--train_set", "nothing"], 1, "run stage 1 first"),
    ],
)
def test_wrong_options_end_with_one_sentence(recipe, arguments, status, message):
    result = recipe.fail(*arguments)
    assert result.returncode == status
    assert message in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1


def test_missing_corpus_is_named(recipe):
    options = ["--mini", "false", "--stage", "1", "--stop_stage", "1", "--mini_opts", ""]
    result = recipe.fail(*options, LIBRISPEECH="/no/such/place")
    assert "/no/such/place/LibriSpeech does not exist" in result.stderr


def test_failures_inside_training_reach_the_terminal(recipe):
    """A target that no set of units can meet is known only once the upstream is."""
    if not list(recipe.directory.glob("exp/asr_train_*/.done")):
        pytest.skip("needs the stages of the first test")
    result = recipe.fail("--stage", "4", "--units", "head", "--target_sparsity", "0.9")
    assert result.returncode == 1
    assert "target_sparsity 0.9 cannot be met" in result.stderr.strip().splitlines()[-1]
