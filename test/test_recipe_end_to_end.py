"""The real recipe on a tiny synthetic corpus: all stages, ESPnet, sclite, kill and resume."""

import json
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import jiwer
import pytest
import torch
import yaml

ROOT = Path(__file__).resolve().parent.parent
MINI = (
    "--num_train 48 --num_dev_clean 4 --num_dev_other 4 --num_test_clean 6 --num_test_other 4 "
    "--nj 2"
)
SETTINGS = [
    "--mini", "true", "--mini_opts", MINI, "--test_sets", "test_clean", "--inference_nj", "1",
    "--audio_format", "flac.ark", "--token_type", "bpe", "--nbpe", "40", "--ramp_epochs", "1",
    "--finetune_args", "--max_epoch 2 --num_workers 0",
    "--prune_args", "--max_epoch 3 --num_workers 0",
    "--compact_args", "--max_epoch 2 --num_workers 0",
]  # fmt: skip


@pytest.fixture(scope="module")
def recipe(tmp_path_factory) -> Path:
    """A copy of the recipe, so that the checkout stays as it is."""
    root = tmp_path_factory.mktemp("checkout")
    ignore = shutil.ignore_patterns("data", "dump", "exp", "downloads")
    shutil.copytree(ROOT / "egs2", root / "egs2", symlinks=True, ignore=ignore)
    shutil.copytree(ROOT / "utils", root / "utils")
    (root / "tools").symlink_to(ROOT / "tools")
    return root / "egs2" / "librispeech_100" / "asr1"


def start(recipe: Path, *arguments: str) -> subprocess.Popen:
    """Start the recipe in a process group of its own."""
    return subprocess.Popen(
        ["./run.sh", *SETTINGS, *arguments],
        cwd=recipe,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def run(recipe: Path, *arguments: str) -> str:
    """Run the recipe to its end and return what it printed."""
    process = start(recipe, *arguments)
    output, _ = process.communicate(timeout=900)
    assert process.returncode == 0, output[-4000:]
    return output


def only(recipe: Path, pattern: str) -> Path:
    """The one path that fits a pattern."""
    (path,) = recipe.glob(pattern)
    return path


def kill_in_training(recipe: Path, stage: int, exp_pattern: str) -> None:
    """Kill the recipe with signal 9 once the training of a stage has saved its first epoch."""
    process = start(recipe, "--stage", str(stage), "--stop_stage", str(stage))
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline:
        if list(recipe.glob(f"{exp_pattern}/checkpoint.pth")):
            break
        assert process.poll() is None, process.stdout.read()[-4000:]
        time.sleep(0.1)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not list(recipe.glob(f"{exp_pattern}/.done"))


def test_all_stages_with_interruptions(recipe):
    run(recipe, "--stage", "1", "--stop_stage", "2")
    # The training of stage 3 survives its parent's death and must not disturb the next run.
    kill_in_training(recipe, 3, "exp/asr_train_finetune_*")
    run(recipe, "--stage", "3", "--stop_stage", "3")
    kill_in_training(recipe, 4, "exp/asr_prune_*")
    run(recipe, "--stage", "4", "--stop_stage", "5")
    kill_in_training(recipe, 6, "exp/asr_compact_*")
    output = run(recipe, "--stage", "3")
    assert "is finished already; skipping" in output

    prune_exp = only(recipe, "exp/asr_prune_*")
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

    exp = only(recipe, "exp/asr_compact_*")
    results = (exp / "RESULTS.md").read_text()
    assert "|dataset|Snt|Wrd|Corr|Sub|Del|Ins|Err|S.Err|" in results
    assert f"{summary['actual']['macs'] / 1e9:.2f}" in results
    for image in ("architecture.png", "pruning.png"):
        assert (prune_exp / "images" / image).stat().st_size > 10_000

    decoded = only(exp, "decode_*/test_clean")
    for name in ("text", "token", "token_int", "score"):
        assert (decoded / name).is_file()
    for name in ("score_wer/result.txt", "score_cer/result.txt", "score_ter/result.txt"):
        assert (decoded / name).is_file()
    check_against_jiwer(recipe, decoded)

    for finished in ("exp/asr_train_finetune_*", "exp/asr_compact_*"):
        saved = only(recipe, finished) / "config.yaml"
        assert yaml.safe_load(saved.read_text())["frontend_conf"]["frontend_conf"]["architecture"]
    assert "skipping" in run(recipe, "--stage", "5")


def check_against_jiwer(recipe: Path, decoded: Path) -> None:
    """The error rate that sclite printed is the one that jiwer computes."""

    def read(path: Path) -> dict[str, str]:
        rows = (line.partition(" ") for line in path.read_text().splitlines())
        return {key: text.strip() for key, _, text in rows}

    reference = read(recipe / "dump/mini/raw/test_clean/text")
    hypothesis = read(decoded / "text")
    assert hypothesis.keys() == reference.keys()
    wer = jiwer.wer(list(reference.values()), [hypothesis[utterance] for utterance in reference])
    (total,) = (
        line
        for line in (decoded / "score_wer" / "result.txt").read_text().splitlines()
        if "Sum/Avg" in line
    )
    printed = float(total.replace("|", " ").split()[-2])
    assert printed == pytest.approx(100 * wer, abs=0.06)


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["--no_such", "1"], 2, "there is no option --no_such"),
        (["--stage"], 2, "--stage needs a value"),
        (["train"], 2, "argument 'train' is not expected"),
        (["--stage", "9"], 2, "--stage and --stop_stage are 1 to 7"),
        (["--target_sparsity", "1"], 2, "must lie between 0 and 1"),
        (["--criterion", "flops"], 2, "--criterion is macs, size or sepsize"),
        (["--criterion", "sepsize", "--target_sparsity", "0.4"], 2, '"cnn=X transformer=Y"'),
        (["--fs", "8k"], 2, "--fs is 8k"),
        (["--nj", "0"], 2, "--nj is a whole number from 1"),
        (["--units", "heads"], 2, "--units takes conv, head, ffn and hidden"),
        (["--token_type", "phone"], 2, "--token_type is char, bpe or word"),
        (["--prune_config", "none.yaml"], 1, "none.yaml (--prune_config) does not exist"),
        (["--upstream_ckpt", "none.pt", "--mini", "false"], 1, "none.pt does not exist"),
        (["--stage", "4", "--expdir", "elsewhere"], 1, "run stage 3 first"),
        (["--stage", "2", "--train_set", "nothing"], 1, "run stage 1 first"),
    ],
)
def test_wrong_options_end_with_one_sentence(recipe, arguments, status, message):
    result = subprocess.run(
        ["./run.sh", *SETTINGS, *arguments], cwd=recipe, capture_output=True, text=True
    )
    assert result.returncode == status
    assert message in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1


def test_missing_corpus_is_named(recipe):
    result = subprocess.run(
        ["./run.sh", "--stage", "1", "--stop_stage", "1"],
        cwd=recipe,
        capture_output=True,
        text=True,
        env=os.environ | {"LIBRISPEECH": "/no/such/place"},
    )
    assert result.returncode != 0
    assert "/no/such/place/LibriSpeech does not exist" in result.stderr


def test_failures_inside_training_reach_the_terminal(recipe):
    """A target that no set of units can meet is known only once the upstream is."""
    if not list(recipe.glob("exp/asr_train_finetune_*/.done")):
        pytest.skip("needs the stages of the first test")
    arguments = ["--stage", "4", "--units", "head", "--target_sparsity", "0.9"]
    result = subprocess.run(
        ["./run.sh", *SETTINGS, *arguments], cwd=recipe, capture_output=True, text=True
    )
    assert result.returncode == 1
    assert "target_sparsity 0.9 cannot be met" in result.stderr.strip().splitlines()[-1]
