"""The SLURP recipe with WavLM on a tiny corpus: all stages, ESPnet, sclite, a label report."""

import json

import pytest
import yaml
from recipe_runs import RecipeCopy, copy_recipe, read_text, sclite_error_rate

SETTINGS = [
    "--mini", "true", "--upstream", "wavlm_mini", "--inference_nj", "1",
    "--ramp_epochs", "1", "--mini_pretrain_epochs", "1",
    "--mini_opts", "--num_train 20 --num_train_synthetic 4 --num_devel 4 --num_test 4 --nj 2",
    "--allow_off_target", "true",
    "--train_args", "--max_epoch 1 --num_workers 0",
    "--prune_args", "--max_epoch 2 --num_workers 0",
    "--compact_args", "--max_epoch 1 --num_workers 0",
]  # fmt: skip


@pytest.fixture(scope="module")
def recipe(tmp_path_factory) -> RecipeCopy:
    """A copy of the recipe."""
    return copy_recipe(tmp_path_factory.mktemp("checkout"), "slurp/asr1", *SETTINGS)


def test_all_stages(recipe):
    output = recipe.run()
    assert "test accuracy (%)" in output
    config = yaml.safe_load((recipe.only("exp/asr_prune_*") / "config.yaml").read_text())
    assert config["decoder"] == "linear_decoder" and config["model_conf"]["ctc_weight"] == 0.0
    assert config["frontend_conf"]["pruning"]["target_sparsity"] == 0.5
    assert len(config["token_list"]) == 10 + 3
    architecture = config["frontend_conf"]["frontend_conf"]["architecture"]
    assert architecture["relative"]["buckets"] == 320

    summary = json.loads(recipe.only("exp/asr_prune_*/compact/summary.json").read_text())
    assert summary["max_abs_diff"] <= 1e-5
    assert list(summary["readers"]) == ["decoder.linear_out"]
    assert 0.995 <= summary["actual"]["macs"] / summary["target"]["macs"] <= 1.0

    exp = recipe.only("exp/asr_compact_*")
    results = (exp / "RESULTS.md").read_text()
    for name in ("asr_train", "asr_compact"):
        decoded = recipe.only(f"exp/{name}_*/decode_batched_*/test")
        reference = read_text(recipe.directory / "dump/mini/raw/test/text")
        hypothesis = read_text(decoded / "text")
        assert hypothesis.keys() == reference.keys()
        assert set(hypothesis.values()) <= set(config["token_list"][2:-1])
        correct = sum(hypothesis[utt] == label for utt, label in reference.items())
        accuracy = 100 * correct / len(reference)
        printed = sclite_error_rate(decoded / "score_wer/result.txt")
        assert 100 - printed == pytest.approx(accuracy, abs=0.06)
        assert f"|test|12|4|{accuracy:.2f}|" in results
        assert not (decoded / "score_cer").exists()
        image = recipe.only(f"exp/{name}_*/images/confusion_test.png")
        assert image.stat().st_size > 10_000
    assert "confusion_test.png" in results
    for stage in ("1", "3", "6"):
        assert "is finished already; skipping" in recipe.run(
            "--stage", stage, "--stop_stage", stage
        )


def test_missing_corpus_is_named(recipe):
    options = ["--mini", "false", "--mini_pretrain_epochs", "0", "--mini_opts", ""]
    result = recipe.fail(*options, "--stop_stage", "1", SLURP="/no/such/place")
    assert "/no/such/place/dataset/slurp does not exist" in result.stderr


@pytest.mark.slow
def test_one_configuration_serves_all_methods(recipe):
    recipe.run("--stop_stage", "3")
    # `criterion` and `finetune_args` are what the options were called before.
    options = ["--criterion", "sepsize", "--target_sparsity", "transformer=0.4 cnn=0.6"]
    options += ["--distill", "true", "--finetune_args", "--max_epoch 1 --num_workers 0"]
    output = recipe.run("--stage", "3", "--stop_stage", "6", *options)
    assert output.count("is finished already; skipping") == 4
    tag = "sepsize_distilled_cnn_0.6_transformer_0.4"
    prune_exp, exp = (recipe.only(f"exp/asr_{part}_{tag}_*") for part in ("prune", "compact"))
    unpruned = str(recipe.only("exp/asr_train_*/valid.acc.ave.pth"))
    for directory in (prune_exp, exp):
        conf = yaml.safe_load((directory / "config.yaml").read_text())["frontend_conf"]
        teacher = conf["distillation"]["teacher"]
        assert str(recipe.directory / teacher) == unpruned
        if directory == prune_exp:
            assert conf["pruning"]["target_sparsity"] == {"cnn": 0.6, "transformer": 0.4}
