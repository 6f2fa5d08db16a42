"""RESULTS.md, the tables, the logs they are made from, and the figures."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread
from report_fixtures import (
    decoding_log_lines,
    training_log_lines,
    write_decoded,
    write_summary,
)

from espnet_hjprune.bin.recipe import report
from espnet_hjprune.errors import HJPruneError
from espnet_hjprune.markdown import markdown_table
from espnet_hjprune.report.figures import plot_architecture, plot_pruning
from espnet_hjprune.report.results_md import method_name, plain_table, read_summary
from espnet_hjprune.scoring.decoding_time import parse_decoding_log, read_decoding_time
from espnet_hjprune.scoring.sclite import parse_result
from espnet_hjprune.training.training_log import parse_training_log, read_training_log

SETS = ["test_clean", "test_other"]
# ESPnet's reporter averages the error rate that a CTC model does not have, and is surprised by the
# run that begins with a later epoch.
pytestmark = [
    pytest.mark.filterwarnings("ignore:Mean of empty slice"),
    pytest.mark.filterwarnings("ignore:The stats of the previous epoch"),
]


@pytest.fixture
def experiments(tmp_path: Path) -> Path:
    """An ``exp`` directory with an unpruned, a pruning and a compact experiment."""
    exp = tmp_path / "exp"
    write_decoded(exp / "asr_ft", SETS, 0.05, factor=0.3)
    write_decoded(exp / "asr_final", SETS, 0.08, factor=0.2)
    write_summary(exp / "asr_prune/compact/summary.json")
    (exp / "asr_prune/train.log").write_text("".join(training_log_lines(range(1, 5))))
    return exp


def options(exp: Path, *more: str) -> list[str]:
    """Return the options of bin.report for ``exp``."""
    return [
        f"--output={exp}/RESULTS.md",
        f"--prune_exp={exp}/asr_prune",
        f"--summary={exp}/asr_prune/compact/summary.json",
        f"--model=unpruned={exp}/asr_ft",
        f"--model=HJ-Pruning-MAC 40%={exp}/asr_final",
        "--decode_tag=decode_asr",
        "--test_sets",
        "test_clean test_other",
        *more,
    ]


def assert_drawn(path: Path) -> None:
    """Assert that a PNG shows something: enough ink, in more than one colour."""
    pixels = imread(path)[..., :3]
    assert min(pixels.shape[:2]) > 400
    assert 0.02 < np.mean(pixels.min(axis=-1) < 0.9) < 0.9
    assert len(np.unique((pixels * 7).astype(int).reshape(-1, 3), axis=0)) > 8


def test_report(experiments, capsys):
    report.main(options(experiments, "--title", "LibriSpeech 100 h"))
    text = (experiments / "RESULTS.md").read_text()
    clean = parse_result(experiments / "asr_ft/decode_asr/test_clean/score_wer/result.txt")
    assert text.startswith("# LibriSpeech 100 h\n")
    for name in ("date", "python version", "espnet version", "pytorch version", "Git hash"):
        assert f"- {name}: `" in text
    assert (
        "|dataset|Snt|Wrd|Corr|Sub|Del|Ins|Err|S.Err|\n|---|---|---|---|---|---|---|---|---|\n"
        in text
    )
    assert f"|decode_asr/test_clean|40|240|{100 * clean.correct / 240:.1f}|" in text
    assert text.count("### WER") == text.count("### CER") == 2
    assert "### TER" not in text
    row = next(line for line in text.splitlines() if line.startswith("|unpruned|"))
    assert row.startswith("|unpruned|74.1|0.0 %|94.37 M|912|0.300|")
    assert f"|{clean.error_rate:.2f}|" in row
    assert "|HJ-Pruning-MAC 40%|44.4|40.0 %|59.09 M|510|0.200|" in text
    assert (
        "1 x 10 s, float32, on a CPU with 2 CPU threads, median" in text
        and "speed-up 1.79." in text
    )
    assert "utterances timed: 12 (unpruned)" in text
    printed = capsys.readouterr().out
    assert printed.splitlines()[0].split("  ")[0] == "model"
    assert "test_other WER (%)" in printed and f"{clean.error_rate:.2f}" in printed
    for path in (
        "asr_final/images/architecture.png",
        "asr_prune/images/architecture.png",
        "asr_prune/images/pruning.png",
        "asr_final/images/tradeoff.png",
    ):
        assert_drawn(experiments / path)
    for link in ("asr_final/images/architecture.png", "asr_prune/images/pruning.png"):
        assert f"]({link})" in text
    assert not [path for path in experiments.rglob(".*") if path.is_file()]


def test_error_columns_are_sclites_own(experiments):
    report.main(options(experiments))
    result = experiments / "asr_final/decode_asr/test_other/score_wer/result.txt"
    printed = next(line for line in result.read_text().splitlines() if "Sum/Avg" in line)
    numbers = printed.replace("|", " ").split()[1:]
    assert (
        f"|decode_asr/test_other|{'|'.join(numbers)}|" in (experiments / "RESULTS.md").read_text()
    )


def test_several_compact_models(experiments, capsys):
    write_summary(
        experiments / "sep/compact/summary.json", "sepsize", {"cnn": 0.4, "transformer": 0.2}
    )
    lines = training_log_lines(range(1, 3), suffixes=("_cnn", "_transformer"))
    (experiments / "sep/train.log").write_text("".join(lines))
    write_decoded(experiments / "asr_sep", SETS, 0.1)
    more = (
        f"--model=SepSize={experiments}/asr_sep",
        f"--summary={experiments}/sep/compact/summary.json",
        f"--prune_exp={experiments}/sep",
    )
    report.main(options(experiments, *more))
    assert capsys.readouterr().out.count("\n") == 5
    text = (experiments / "RESULTS.md").read_text()
    assert (
        "|model|of|target|expected by the gates|after compaction|\n|---|---|---|---|---|\n"
        "|HJ-Pruning-MAC 40%|MACs|40.0 %|36.9 %|40.0 %|\n"
        "|SepSize|parameters cnn|40.0 %|36.9 %|40.0 %|\n"
        "|SepSize|parameters transformer|20.0 %|16.9 %|20.0 %|\n"
    ) in text
    assert_drawn(experiments / "sep/images/pruning.png")


def test_report_without_training_or_decoding_logs(experiments, caplog):
    (experiments / "asr_prune/train.log").unlink()
    for path in experiments.rglob("asr_inference.*.log"):
        path.unlink()
    with caplog.at_level(logging.WARNING):
        report.main(options(experiments))
    assert "no figure of the pruning" in caplog.text
    text = (experiments / "RESULTS.md").read_text()
    assert "|unpruned|74.1|0.0 %|94.37 M|912|n/a|" in text and "RTF: not measured" in text
    assert "pruning.png" not in text


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        ("rm -r asr_final/decode_asr/test_other", "score_wer/result.txt does not exist; run stage"),
        ("rm asr_prune/compact/summary.json", "summary.json does not exist; run stage 5"),
        ("echo '{' > asr_prune/compact/summary.json", "summary.json is no JSON file"),
        ("echo '{}' > asr_prune/compact/summary.json", "lacks 'dense.macs'"),
        ("echo '[]' > asr_prune/compact/summary.json", "lacks 'dense.macs'"),
        ("rm -r asr_ft", "asr_ft is no directory; train the model first"),
    ],
)
def test_missing_parts_are_named(experiments, break_it, message):
    subprocess.run(break_it, shell=True, cwd=experiments, check=True)
    with pytest.raises(HJPruneError, match=message):
        report.main(options(experiments))
    assert not (experiments / "RESULTS.md").exists()


def test_options_that_do_not_fit(experiments):
    with pytest.raises(HJPruneError, match="3 --model, 1 --summary and 1 --prune_exp do not fit"):
        report.main(options(experiments, f"--model=more={experiments}/asr_ft"))
    with pytest.raises(HJPruneError, match="not of the form NAME=EXP"):
        report.main([o.replace("=unpruned=", "=unpruned") for o in options(experiments)])


def test_command_line_does_not_import_torch():
    code = (
        "import sys; import espnet_hjprune.bin.recipe.score, espnet_hjprune.bin.recipe.report; "
        "from espnet_hjprune.report import figures; "
        "print([m for m in ('torch', 'espnet2', 's3prl') if m in sys.modules])"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def test_training_log_has_what_espnets_reporter_had():
    log = parse_training_log(training_log_lines(range(1, 4)))
    assert sorted(log.epochs) == [1, 2, 3]
    assert log.batches_per_epoch() == 63
    assert "time" not in log.names("train")
    assert "wer" not in log.names("valid")  # it was nan throughout
    assert log.epochs[3]["train"]["macs"] == pytest.approx(7.4e10)
    x, y = log.train_series("target_sparsity")
    assert len(x) == 18 and x[5] == pytest.approx(60 / 63) and x[6] == pytest.approx(1 + 10 / 63)
    assert y == sorted(y) and y[-1] == pytest.approx(0.4, abs=0.02)
    assert log.epoch_series("valid", "cer_ctc")[0] == [1.0, 2.0, 3.0]


def test_training_log_of_an_interrupted_run(tmp_path):
    first = training_log_lines(range(1, 5))
    (tmp_path / "train.2.log").write_text("".join(first[:-5]))  # killed in epoch 4
    second = training_log_lines(range(4, 6))
    (tmp_path / "train.1.log").write_text("".join(second[:3]))
    (tmp_path / "train.log").write_text("".join(second))
    log = read_training_log(tmp_path)
    assert sorted(log.epochs) == [1, 2, 3, 4, 5]
    x, _ = log.train_series("sparsity")
    assert len(x) == 30 and x == sorted(x)


def test_training_log_without_statistics(tmp_path):
    (tmp_path / "train.log").write_text("Killed\n")
    with pytest.raises(HJPruneError, match="no training statistics"):
        read_training_log(tmp_path)
    lines = [line.replace("sparsity", "other") for line in training_log_lines([1])]
    with pytest.raises(HJPruneError, match="no 'sparsity'"):
        plot_pruning(parse_training_log(lines), "", tmp_path / "x.png")


def test_real_time_factor_skips_what_was_not_decoded(tmp_path):
    lines = decoding_log_lines([2.0, 4.0], 0.25)
    short = [
        lines[1],
        "2024-01-01 23:59:59,000 (asr_inference:855) WARNING: Utterance ['u'] short\n",
    ]
    total = parse_decoding_log([*short, *lines, *short])
    assert (total.utterances, total.audio) == (2, 6.0)
    assert total.real_time_factor == pytest.approx(0.25)
    assert read_decoding_time(tmp_path).real_time_factor is None


@pytest.mark.parametrize(
    ("summary", "name"),
    [
        ({"criterion": "macs", "target_sparsity": 0.4}, "HJ-Pruning-MAC 40 %"),
        (
            {"criterion": "sepsize", "target_sparsity": {"cnn": 0.1, "transformer": 0.25}},
            "HJ-Pruning-SepSize cnn 10 %, transformer 25 %",
        ),
        (
            {"criterion": "size", "units": ["head", "ffn"], "target_sparsity": 0.3},
            "Transformer only 30 %",
        ),
    ],
)
def test_method_name(summary, name):
    assert method_name(summary) == name


def test_architecture_of_other_sizes(tmp_path):
    summary = write_summary(tmp_path / "summary.json")
    layers = {"conv": [512, 1], "head": [16] * 23 + [0], "ffn": [4096] * 23 + [0], "hidden": 1024}
    dense = {"conv": [512] * 2, "head": [16] * 24, "ffn": [4096] * 24, "hidden": 1024}
    summary["layers"] = {**layers, "dense": dense}
    assert_drawn(plot_architecture(summary, tmp_path / "large.png"))
    dense["head"] = [16]
    with pytest.raises(HJPruneError, match="24 pruned and 1 dense layers of attention heads"):
        plot_architecture(summary, tmp_path / "bad.png")
    assert not (tmp_path / "bad.png").exists()
    assert read_summary(tmp_path / "summary.json")["layers"]["hidden"] == 704


def test_tables():
    rows = [["model", "WER"], ["a|b", "5.77"], ["longer", "12.10"]]
    assert markdown_table(rows) == "|model|WER|\n|---|---|\n|a\\|b|5.77|\n|longer|12.10|\n"
    assert plain_table(rows).splitlines() == [
        "model     WER",
        "------  -----",
        "a|b      5.77",
        "longer  12.10",
    ]
