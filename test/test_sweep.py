"""Sweeps: grids, jobs that fail, are killed and repeated, and the report of what is finished."""

import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from espnet_hjprune.bin import sweep as command
from espnet_hjprune.errors import HJPruneError
from espnet_hjprune.sweep.config import SweepConfig
from espnet_hjprune.sweep.record import pareto_front, read_swept_models

CONFIG = {
    "name": "test",
    "options": {"mini": True, "ngpu": 0},
    "methods": {
        "size": {"method": "size"},
        "sepsize": {"method": "sepsize"},
        "macs": {"method": "macs"},
    },
    "upstreams": {"a": {"upstream": "a_mini"}, "b": {"upstream": "b_mini"}},
    "grids": [
        {"methods": ["macs", "size"], "targets": [0.4, 0.6], "upstreams": ["a"]},
        {"methods": ["sepsize"], "targets": ["cnn=0.5 transformer=0.3"], "upstreams": ["a"]},
        {"methods": ["macs"], "targets": [0.4], "upstreams": ["a"], "seeds": [2, 3]},
        {"methods": ["macs"], "targets": [0.4]},
    ],
}
# Stands in for a recipe: notes what it is asked for, and fails or waits where a file says so.
RECIPE = """#!/usr/bin/env bash
set -eu
declare -A o
while [ $# -gt 0 ]; do o[${1#--}]=$2; shift 2; done
echo "stage ${o[stage]} ${o[upstream]} ${o[method]-} ${o[target_sparsity]-} ${o[seed]-}" >>calls
echo "Stage ${o[stage]}: Something"
if [ -e fail ] && [ "${o[target_sparsity]-}" = 0.6 ]; then echo "error: out of luck"; exit 1; fi
if [ -e wait ]; then echo $$ >waiting; sleep 60; fi
if [ -n "${o[results_copy]-}" ]; then
    [ ! -e scoring ] || exit 3
    touch scoring; sleep 0.1; rm scoring
    python3 make_result.py "${o[target_sparsity]}" "${o[seed]:-1}" >"${o[results_copy]}"
fi
"""
MAKE_RESULT = """
import json, re, sys
target, seed = sys.argv[1], int(sys.argv[2])
shares = [float(x) for x in re.findall(r"[0-9.]+", target)]
share = sum(shares) / len(shares)
names = ("cnn", "transformer")
layers = {"conv": [4, 4], "head": [2, 1], "ffn": [8, 2], "hidden": 6}
dense = {"conv": [8, 8], "head": [2, 2], "ffn": [8, 8], "hidden": 8}
models = [
    {"name": "unpruned", "macs": 1e9, "params": 1e6, "macs_removed": 0.0,
     "values": {"clean": 9.0, "other": 20.0}},
    {"name": "x", "macs": 1e9 * (1 - share), "params": 8e5, "macs_removed": share,
     "values": {"clean": 9.0 + 2 * share + seed / 10, "other": 22.0},
     "target_sparsity": share if len(shares) == 1 else dict(zip(names, shares)),
     "layers": layers | {"dense": dense}},
]
metric = {"name": "WER", "higher_is_better": False}
print(json.dumps({"seconds": 10.0, "metric": metric, "models": models}))
"""


@pytest.fixture
def recipe(tmp_path, monkeypatch):
    """A directory with a recipe and a sweep."""
    monkeypatch.chdir(tmp_path)
    Path("run.sh").write_text(RECIPE)
    Path("run.sh").chmod(0o755)
    Path("make_result.py").write_text(MAKE_RESULT)
    Path("sweep.yaml").write_text(yaml.safe_dump(CONFIG))
    return tmp_path


def calls():
    """What the recipe was asked for since the last time."""
    path = Path("calls")
    lines = path.read_text().splitlines() if path.exists() else []
    path.unlink(missing_ok=True)
    return lines


def run(*arguments):
    command.main(["--config", "sweep.yaml", *arguments])


def interrupt_while_waiting(process, number):
    """Send a signal to a sweep once its recipe waits, and let it end."""
    deadline = time.monotonic() + 120
    while not Path("waiting").exists():
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.1)
    time.sleep(0.5)
    process.send_signal(number)
    process.communicate(timeout=30)
    assert process.returncode == 130


def test_points_of_the_grids(recipe):
    points = SweepConfig.read("sweep.yaml").points()
    assert [point.name for point in points] == [
        "a-macs-0.4",
        "a-macs-0.6",
        "a-size-0.4",
        "a-size-0.6",
        "a-sepsize-cnn_0.5_transformer_0.3",
        "a-macs-0.4-seed2",
        "a-macs-0.4-seed3",
        "b-macs-0.4",
    ]
    assert str(points[4].targets[0]) == points[4].target == "cnn=0.5 transformer=0.3"
    assert dict(points[5].options) == {
        "mini": "true",
        "ngpu": "0",
        "upstream": "a_mini",
        "method": "macs",
        "target_sparsity": "0.4",
        "seed": "2",
    }


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": None}, "has no name"),
        ({"name": "a/b"}, "it makes the name of a directory"),
        ({"grids": {"methods": []}}, "is a list of grids"),
        ({"grids": [{"methods": ["macs"]}]}, r"grids\[0\] has no targets"),
        ({"grids": [{"methods": ["x"], "targets": [0.1]}]}, "has x, but methods of the sweep are"),
        ({"grids": [{"methods": "macs", "targets": [0.1]}]}, "methods is a list"),
        (
            {"grids": [{"methods": ["macs"], "targets": [1.5]}]},
            r"targets\[0\] is 1\.5; it must lie between",
        ),
        ({"grids": [{"methods": ["macs"], "targets": [0.1], "seeds": ["x"]}]}, "whole numbers"),
        ({"methods": {"macs": {"stage": 3}}}, "methods.macs.stage: the sweep sets this option"),
        ({"methods": {"macs": ["size"]}}, "has lines 'option: value'"),
        ({"options": {"mini": None}}, "options.mini must be a text"),
        (
            {"grids": [{"methods": ["macs"], "targets": [0.4, "0.2 0.4"]}]},
            "has the target 0.4 both in '0.4' and in '0.2 0.4'",
        ),
        ({"grids": [{"methods": ["macs"], "targets": ["0.4 0.2"]}]}, "which does not rise"),
        ({"grids": [{"methods": ["sepsize"], "targets": [0.4]}]}, "when the criterion is sepsize"),
        ({"grids": [{"methods": ["sepsize"], "targets": ["cnn=0.4"]}]}, "and one for transformer"),
        (
            {"grids": [{"methods": ["macs"], "targets": [{"cnn": 0.4, "transformer": 0.4}]}]},
            "targets for macs is one number when the criterion is macs",
        ),
        ({"grids": [{"methods": [["macs"]], "targets": [0.4]}]}, r"has \['macs'\], but methods"),
        (
            {"methods": CONFIG["methods"] | {"size": {"method": "macs", "ramp_epochs": 3}}},
            r"a-macs-0\.4 and a-size-0\.4 would be one experiment of the recipe",
        ),
        ({"launcher": "pbs"}, "it is local or slurm"),
        ({"parallel": 0}, "must be at least 1"),
        ({"paralel": 2}, "has no option paralel"),
        ({"recipe": "other.sh"}, "other.sh does not exist"),
    ],
)
def test_wrong_sweeps_are_refused(recipe, change, message):
    Path("sweep.yaml").write_text(yaml.safe_dump(CONFIG | change))
    with pytest.raises(HJPruneError, match=message):
        run("--list")


@pytest.mark.parametrize("parallel", [1, 3])
def test_every_point_runs_once(recipe, parallel, capsys):
    run("--parallel", str(parallel))
    done = calls()
    assert done[:2] == ["stage 1 a_mini   ", "stage 1 b_mini   "]
    expected = [
        f"stage {stage} {point.options[2][1]} {dict(point.options)['method']} "
        f"{point.target} {point.seed or ''}"
        for point in SweepConfig.read("sweep.yaml").points()
        for stage in (4, 7)
    ]
    assert sorted(done[2:]) == sorted(expected)
    if parallel == 1:
        assert done[2:] == expected
    run()
    assert calls() == []
    run("--list")
    assert capsys.readouterr().out.split().count("finished") == 8


def test_only_some_points(recipe, capsys):
    run("--only", "b-*")
    assert calls() == ["stage 1 b_mini   ", "stage 4 b_mini macs 0.4 ", "stage 7 b_mini macs 0.4 "]
    run("--list")
    assert capsys.readouterr().out.split().count("finished") == 1
    with pytest.raises(HJPruneError, match="fits no point"):
        run("--only", "c-*")


def test_failed_points_are_reported_and_repeated(recipe):
    Path("fail").touch()
    with pytest.raises(HJPruneError, match=r"2 of 8 jobs failed: a-macs-0\.6, a-size-0\.6"):
        run()
    assert "out of luck" in Path("exp/sweep_test/a-macs-0.6/log.txt").read_text()
    calls()
    Path("fail").unlink()
    run()
    assert [line.split()[1:5] for line in calls()[1:]] == [
        [stage, "a_mini", method, "0.6"] for method in ("macs", "size") for stage in ("4", "7")
    ]


def test_two_sweeps_keep_out_of_one_directory(recipe):
    Path("exp/sweep_test").mkdir(parents=True)
    with Path("exp/sweep_test/.running").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(HJPruneError, match="is another sweep at work in it"):
            run()
    assert calls() == []
    run()


def test_what_went_wrong_is_not_hidden_by_the_report(recipe):
    run()
    Path("exp/sweep_test/a-macs-0.4/results.json").write_text("{}")
    Path("fail").touch()
    shutil.rmtree("exp/sweep_test/a-size-0.6")
    with pytest.raises(HJPruneError, match=r"1 of 1 jobs failed: a-size-0\.6"):
        run()


def test_jobs_get_gpus_of_their_own(recipe, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5,6,7")
    noting = 'echo "$CUDA_VISIBLE_DEVICES" >>gpus; echo "stage'
    Path("run.sh").write_text(Path("run.sh").read_text().replace('echo "stage', noting))
    Path("sweep.yaml").write_text(yaml.safe_dump(CONFIG | {"options": {"ngpu": 2}, "parallel": 2}))
    run()
    assert set(Path("gpus").read_text().split()) == {"3,5,6,7", "3,5", "6,7"}


def test_other_options_are_run_anew(recipe):
    run()
    calls()
    Path("sweep.yaml").write_text(yaml.safe_dump(CONFIG | {"options": {"mini": True}}))
    run()
    assert len(calls()) == 18


def test_a_failed_preparation_ends_the_sweep(recipe):
    for script, message in (
        ("#!/bin/sh\necho no audio; exit 1\n", "no audio"),
        ("exit 0\n", "cannot be started: "),
    ):
        Path("run.sh").write_text(script)
        with pytest.raises(HJPruneError, match="2 of 2 jobs failed: a-prepare, b-prepare"):
            run()
        assert message in Path("exp/sweep_test/a-prepare/log.txt").read_text()
    assert not Path("exp/sweep_test/a-macs-0.4").exists()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_an_interrupted_sweep_leaves_nothing_running(recipe, number):
    Path("wait").touch()
    arguments = [sys.executable, "-m", "espnet_hjprune.bin.sweep", "--config", "sweep.yaml"]
    # Programs that a shell starts in the background are deaf to SIGINT, tests among them.
    process = subprocess.Popen(
        arguments,
        stderr=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    interrupt_while_waiting(process, number)
    pid = int(Path("waiting").read_text())
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    Path("wait").unlink()
    calls()
    run()
    assert len(calls()) == 18


def test_the_report_holds_what_is_finished(recipe):
    Path("fail").touch()
    with pytest.raises(HJPruneError, match="2 of 8 jobs failed"):
        run()
    directory = Path("exp/sweep_test")
    text = (directory / "RESULTS.md").read_text()
    rows = [
        [cell.strip() for cell in line.split("|")[1:-1]]
        for line in text.splitlines()
        if line.startswith("|")
    ]
    assert ["unpruned", "-", "-", "1", "0.0 %", "1 M", "9.00", "20.00"] in rows
    assert ["macs", "0.4", "3", "0.6", "40.0 %", "0.8 M", "10.00 ± 0.10", "22.00 ± 0.00"] in rows
    assert ["size", "0.4", "1", "0.6", "40.0 %", "0.8 M", "9.90", "22.00"] in rows
    assert not any(row[1] == "0.6" for row in rows)
    page = (directory / "index.html").read_text()
    images = sorted(path.name for path in (directory / "images").iterdir())
    assert images == [
        "a_macs_remaining.png",
        "a_methods.png",
        "a_sepsize_remaining.png",
        "a_size_remaining.png",
        "b_macs_remaining.png",
        "b_methods.png",
    ]
    assert page.count("data:image/png;base64,") == len(images) == text.count("](images/")
    assert "http" not in page
    before = (directory / "index.html").stat().st_mtime_ns
    run("--report_only")
    assert (directory / "index.html").stat().st_mtime_ns > before
    assert page == (directory / "index.html").read_text()


def test_a_set_that_some_points_lack_is_left_open(recipe):
    run()
    for point, unpruned, pruned in (("a-macs-0.4-seed2", 50.0, 60.0), ("a-size-0.4", 50.0, 70.0)):
        result = Path(f"exp/sweep_test/{point}/results.json")
        record = json.loads(result.read_text())
        record["models"][0]["values"]["test_far"] = unpruned
        record["models"][1]["values"]["test_far"] = pruned
        result.write_text(json.dumps(record))
    run("--report_only")
    text = Path("exp/sweep_test/RESULTS.md").read_text()
    rows = {
        (cells[0], cells[1]): cells[-1]
        for line in text.split("## b")[0].splitlines()
        if line.startswith("|")
        for cells in [[cell.strip() for cell in line.split("|")[1:-1]]]
    }
    assert rows["method", "target"] == "test_far WER (%)"
    assert rows["unpruned", "-"] == "50.00"
    assert rows["macs", "0.4"] == "60.00 (1 of 3)"
    assert rows["size", "0.4"] == "70.00"
    assert rows["macs", "0.6"] == "-"


def test_reports_refuse_what_is_no_result(recipe):
    run()
    result = Path("exp/sweep_test/a-macs-0.4/results.json")
    record = json.loads(result.read_text())
    record["metric"]["name"] = "accuracy"
    result.write_text(json.dumps(record))
    with pytest.raises(HJPruneError, match="other metrics than one another"):
        run("--report_only")
    result.write_text("{}")
    with pytest.raises(HJPruneError, match=r"a-macs-0\.4/results\.json is no results\.json"):
        run("--report_only")


def test_the_front_of_a_grid(recipe):
    grid = [f"cnn={cnn} transformer={other}" for cnn in (0.2, 0.5, 0.8) for other in (0.2, 0.6)]
    grids = [{"methods": ["sepsize"], "targets": grid, "upstreams": ["a"]}]
    Path("sweep.yaml").write_text(yaml.safe_dump(CONFIG | {"grids": grids}))
    run()
    directory = Path("exp/sweep_test")
    assert (directory / "images" / "a_sepsize_grid.png").is_file()
    results = [("sepsize", "a", path) for path in directory.glob("*/results.json")]
    record = read_swept_models(results)
    groups = record.of_method("a", "sepsize")
    assert len(groups) == 6
    for higher, sign in ((False, 1), (True, -1)):
        front = pareto_front(groups, "clean", higher)
        beaten = [
            group
            for group in groups
            if any(
                other.macs <= group.macs
                and sign * other.mean("clean") <= sign * group.mean("clean")
                and (other.macs, other.mean("clean")) != (group.macs, group.mean("clean"))
                for other in groups
            )
        ]
        assert {g.target for g in front} == {g.target for g in groups if g not in beaten}
