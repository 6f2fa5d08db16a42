"""The TED-LIUM 2 recipe on tiny talks: segments, speed perturbation, all stages, a scored model."""

import json

import jiwer
import pytest
from recipe_runs import RecipeCopy, copy_recipe, read_text, sclite_error_rate

SETTINGS = [
    "--mini", "true", "--mini_opts", "--num_train 24 --num_dev 4 --num_test 5 --nj 2",
    "--inference_nj", "1", "--ramp_epochs", "1", "--speed_perturb_factors", "0.9 1.0",
    "--method", "size", "--target_sparsity", "0.3",
    "--allow_off_target", "true",
    "--train_args", "--max_epoch 1 --num_workers 0",
    "--prune_args", "--max_epoch 2 --num_workers 0",
    "--compact_args", "--max_epoch 1 --num_workers 0",
]  # fmt: skip


@pytest.fixture(scope="module")
def recipe(tmp_path_factory) -> RecipeCopy:
    """A copy of the recipe."""
    return copy_recipe(tmp_path_factory.mktemp("checkout"), "tedlium2/asr1", *SETTINGS)


@pytest.mark.slow
def test_all_stages(recipe):
    output = recipe.run()
    assert "HJ-Pruning-Size 30 %" in output
    # Segments were cut out of the talks, and the training set has a slower copy.
    segments = read_text(recipe.directory / "data/train/segments")
    formatted = read_text(recipe.directory / "dump/mini/raw/train_sp/text")
    assert len(segments) == 24 and len(formatted) == 48
    assert all(text == text.lower() for text in formatted.values())
    samples = read_text(recipe.directory / "dump/mini/raw/train_sp/utt2num_samples")
    for utterance in segments:
        slower = int(samples[f"sp0.9-{utterance}"])
        assert slower == pytest.approx(int(samples[utterance]) / 0.9, abs=2)

    summary = json.loads(recipe.only("exp/asr_prune_*/compact/summary.json").read_text())
    assert summary["max_abs_diff"] <= 1e-5 and summary["criterion"] == "size"
    assert 0.3 <= summary["sparsity"]["actual"] <= 0.305
    results = recipe.only("exp/asr_compact_size_0.3_*/RESULTS.md").read_text()
    for test_set, count in (("test", 5), ("dev", 4)):
        decoded = recipe.only(f"exp/asr_compact_*/decode_batched_*/{test_set}")
        reference = read_text(recipe.directory / f"dump/mini/raw/{test_set}/text")
        hypothesis = read_text(decoded / "text")
        assert len(reference) == count and hypothesis.keys() == reference.keys()
        words = [hypothesis[utterance] for utterance in reference]
        expected = 100 * jiwer.wer(list(reference.values()), words)
        printed = sclite_error_rate(decoded / "score_wer/result.txt")
        assert printed == pytest.approx(expected, abs=0.06)
        assert f"/{test_set}|{count}|" in results
    assert "is finished already; skipping" in recipe.run("--stop_stage", "2")


def test_missing_corpus_is_named(recipe):
    options = ["--mini", "false", "--stage", "1", "--stop_stage", "1"]
    result = recipe.fail(*options, TEDLIUM2="/no/such/place")
    assert "/no/such/place/TEDLIUM_release2 does not exist" in result.stderr
