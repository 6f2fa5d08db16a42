"""Job runner and progress display."""

import io
import subprocess
import sys
import time
from pathlib import Path

import pytest

from espnet_hjprune.training import watch as progress
from espnet_hjprune.training.watch import DecodingProgress, Tail, TrainingProgress

ROOT = Path(__file__).resolve().parent.parent
RUN_LOCAL = ROOT / "utils" / "run_local.sh"
STAMP = "2026-01-02 03:04:05,678 (trainer:811) INFO: "


def run_local(*arguments, **options):
    """Call the job runner."""
    return subprocess.run(
        [RUN_LOCAL, *map(str, arguments)], capture_output=True, text=True, **options
    )


def test_parallel_jobs_have_their_own_logs(tmp_path):
    log = tmp_path / "logs" / "job.JOB.log"
    result = run_local("--gpu", 0, "JOB=1:3", log, "bash", "-c", "echo number JOB; echo e JOB >&2")
    assert result.returncode == 0
    for job in (1, 2, 3):
        text = (tmp_path / "logs" / f"job.{job}.log").read_text()
        assert f"number {job}\ne {job}\n" in text
        assert "# Ended with status 0" in text


def test_a_failed_job_fails_the_whole(tmp_path):
    result = run_local("JOB=1:2", tmp_path / "JOB.log", "bash", "-c", "exit $((JOB - 1))")
    assert result.returncode == 1
    assert "# Ended with status 1" in (tmp_path / "2.log").read_text()


def test_words_stay_together(tmp_path):
    run_local(tmp_path / "log", "printf", "<%s>\n", "two words", "*")
    assert "<two words>\n<*>\n" in (tmp_path / "log").read_text()


@pytest.mark.parametrize("arguments", [[], ["log"], ["--gpu"]])
def test_wrong_calls_are_explained(arguments, tmp_path):
    result = run_local(*arguments, cwd=tmp_path)
    assert result.returncode == 2 and result.stderr.startswith("error: run_local.sh:")


def test_tail_gives_complete_lines_once(tmp_path):
    path = tmp_path / "log"
    tail = Tail(path)
    assert list(tail.lines()) == []
    path.write_text("one\ntw")
    assert list(tail.lines()) == ["one"]
    with path.open("a") as file:
        file.write("o\nthree\n")
    assert list(tail.lines()) == ["two", "three"]


def test_training_progress(tmp_path):
    path = tmp_path / "train.log"
    training = TrainingProgress(path, batches_per_epoch=50)
    assert training.update() == (0, "")
    path.write_text(
        f"{STAMP}1/3epoch started\n"
        f"{STAMP}1epoch:train:1-10batch: iter_time=0.01, loss_ctc=9.512, loss=9.512, lr0=1e-4\n"
    )
    assert training.update() == (10, "loss_ctc=9.51 loss=9.51")
    with path.open("a") as file:
        file.write(
            f"{STAMP}1epoch results: [train] loss_ctc=8.0, loss=8.0, sparsity=0.1, "
            "time=1 minute and 3 seconds, total_count=50, "
            "[valid] loss_ctc=7.0, cer_ctc=0.5, acc=nan, time=2 seconds, total_count=3\n"
        )
    assert training.update() == (50, "loss_ctc=8 loss=8 sparsity=0.1 valid cer_ctc=0.5")


def test_decoding_progress(tmp_path):
    decoding = DecodingProgress(tmp_path, jobs=2)
    (tmp_path / "decode.1.log").write_text("best hypo: a\nother\nbest hypo: b\n")
    assert decoding.update() == (2, "")
    (tmp_path / "decode.2.log").write_text("best hypo: c\n")
    assert decoding.update() == (3, "")
    with (tmp_path / "decode.2.log").open("a") as log:
        log.write("2026-01-01 (decode:1) INFO: decoded 20 utterances in 1.234 s\n")
    assert decoding.update() == (23, "")


def test_following_ends_with_the_process(monkeypatch):
    output = io.StringIO()
    monkeypatch.setattr(sys, "stderr", output)
    monkeypatch.setattr(progress, "LINE_SECONDS", 0.2)
    process = subprocess.Popen(["sleep", "2"])
    counts = iter(range(1, 1000))
    begin = time.monotonic()
    progress.follow(lambda: (next(counts), "loss=1"), 10, process.pid, "stage 3", "batch")
    assert 1.5 < time.monotonic() - begin < 4
    process.wait()
    lines = output.getvalue().splitlines()
    assert "batch, about 0:00:0" in lines[1] and lines[1].endswith("loss=1")
