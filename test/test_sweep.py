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
from recipe_runs import ROOT

from espnet_hjprune.bin import sweep as command
from espnet_hjprune.errors import HJPruneError
from espnet_hjprune.scoring.significance import ComparedSystems
from espnet_hjprune.sweep import figures
from espnet_hjprune.sweep.config import GivenPoint, SweepConfig
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
GIVEN = {
    "name": "theirs",
    "upstream": "a",
    "test_set": "clean",
    "gmacs": 0.5,
    "value": 7.5,
    "source": "a paper, Table 1",
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
import json, random, re, sys
target, seed = sys.argv[1], int(sys.argv[2])
shares = [float(x) for x in re.findall(r"[0-9.]+", target)]
share = sum(shares) / len(shares)
names = ("cnn", "transformer")
def heard(name, error_rate):
    draw = random.Random(name).random
    return " ".join("".join("S" if draw() < error_rate else "C" for _ in range(6)) for _ in ids)
ids = [f"s-{n:02d}" for n in range(30)]
layers = {"conv": [4, 4], "head": [2, 1], "ffn": [8, 2], "hidden": 6}
dense = {"conv": [8, 8], "head": [2, 2], "ffn": [8, 8], "hidden": 8}
models = [
    {"name": "unpruned", "macs": 1e9, "params": 1e6, "macs_removed": 0.0,
     "values": {"clean": 9.0, "other": 20.0},
     "alignments": {name: heard(name, 0.1) for name in ("clean", "other")}},
    {"name": "x", "macs": 1e9 * (1 - share), "params": 8e5, "macs_removed": share,
     "values": {"clean": 9.0 + 2 * share + seed / 10, "other": 22.0},
     "alignments": {"clean": heard(f"{target} {seed}", 0.1 + share), "other": heard("other", 0.1)},
     "target_sparsity": share if len(shares) == 1 else dict(zip(names, shares)),
     "latency": {"actual": 0.1 * (1 - share), "dense": 0.1, "speed_up": 1 / (1 - share),
                 "seconds": 10.0, "batch": 1,
                 "machine": {"device": "a CPU", "threads": 2, "dtype": "float32"}},
     "layers": layers | {"dense": dense}},
]
metric = {"name": "WER", "higher_is_better": False}
utterances = {name: " ".join(ids) for name in ("clean", "other")}
print(json.dumps(
    {"seconds": 10.0, "metric": metric, "models": models, "utterances": utterances}
))
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


def test_all_pairs_of_separate_targets(recipe):
    pairs = {"transformer": [0.1, 0.2], "cnn": [0.1, 0.95]}
    grids = [{"methods": ["sepsize"], "targets": pairs, "upstreams": ["a"]}]
    Path("sweep.yaml").write_text(yaml.safe_dump(CONFIG | {"grids": grids}))
    assert [point.target for point in SweepConfig.read("sweep.yaml").points()] == [
        "cnn=0.1 transformer=0.1",
        "cnn=0.95 transformer=0.1",
        "cnn=0.1 transformer=0.2",
        "cnn=0.95 transformer=0.2",
    ]


@pytest.mark.parametrize(
    ("corpus", "transformer", "least_gmacs"),
    [("librispeech_100", [0.1, 0.2, 0.3, 0.4], 20), ("slurp", [0.1, 0.2, 0.3, 0.4, 0.5, 0.6], 10)],
)
def test_sweeps_of_the_recipes_make_the_papers_figures(corpus, transformer, least_gmacs):
    config = SweepConfig.read(ROOT / f"egs2/{corpus}/asr1/conf/tuning/sweep.yaml")
    targets: dict[str, list] = {}
    for point in config.points():
        if point.upstream == "wav2vec2":
            targets.setdefault(point.method, []).extend(point.targets)
    grid = [target.by_name() for target in targets["sepsize"]]
    assert sorted({shares["transformer"] for shares in grid}) == transformer
    for share in transformer:
        cnn = sorted(shares["cnn"] for shares in grid if shares["transformer"] == share)
        assert (cnn[0], cnn[-1]) == (0.1, 0.95) and len(cnn) == 10
    macs = [target.shares[0] for target in targets["macs"]]
    assert {0.1, 0.2, 0.3, 0.4} <= set(macs)
    # The paper counts 74.4 GMACs unpruned.
    assert round(74.4 * (1 - max(macs))) == least_gmacs
    assert [(point.gmacs, point.value) for point in config.given] == [
        (74.4, 5.77 if corpus == "librispeech_100" else 86.1)
    ]


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
        (
            {"grids": [{"methods": ["sepsize"], "targets": {"cnn": [0.4]}}]},
            r"grids\[0\]\.targets is a list of targets, or has a list of shares for each of cnn",
        ),
        (
            {"grids": [{"methods": ["macs"], "targets": {"cnn": [0.4], "transformer": [0.2]}}]},
            "is one number when the criterion is macs",
        ),
        ({"given": {"name": "x"}}, "given is a list of points, each with name, upstream"),
        ({"given": [{"name": "x"}]}, r"given\[0\] has no upstream; it needs name, upstream"),
        ({"given": [GIVEN | {"gmacs": "x"}]}, r"given\[0\]\.gmacs is 'x', which is no number"),
        ({"given": [GIVEN | {"upstream": "c"}]}, r"given\[0\]\.upstream is c, but .* are a, b"),
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
    assert ["unpruned", "-", "-", "1", "0.0 %", "1 M", "-", "-", "9.00", "20.00"] in rows
    seeds = ["macs", "0.4", "3", "0.6", "40.0 %", "0.8 M", "60 ms", "1.67"]
    assert [*seeds, "10.00 ± 0.10", "22.00 ± 0.00"] in rows
    assert ["size", "0.4", "1", "0.6", "40.0 %", "0.8 M", "60 ms", "1.67", "9.90", "22.00"] in rows
    assert not any(row[1] == "0.6" for row in rows)
    assert "took turns with it (1 x 10 s, float32, on a CPU with 2 CPU threads)." in text
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
        if not higher:
            assert record.curve("a", "sepsize") == front[::-1]


def drawn(monkeypatch, plot, *arguments):
    """The first panel of a figure, and by label what is drawn in it."""
    kept = []
    monkeypatch.setattr(figures, "save_figure", lambda figure, path: kept.append(figure) or path)
    plot(*arguments)
    axes = kept[0].axes[0]
    return axes, dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))


def test_a_grid_is_drawn_by_transformer_share_and_its_front_beside_other_methods(
    recipe, monkeypatch
):
    pairs = {"cnn": [0.2, 0.5, 0.8], "transformer": [0.2, 0.6]}
    grids = [
        {"methods": ["sepsize"], "targets": pairs, "upstreams": ["a"]},
        {"methods": ["macs"], "targets": [0.4, 0.6], "upstreams": ["a"]},
    ]
    Path("sweep.yaml").write_text(yaml.safe_dump(CONFIG | {"grids": grids}))
    run()
    paths = Path("exp/sweep_test").glob("*/results.json")
    record = read_swept_models([(path.parent.name.split("-")[1], "a", path) for path in paths])
    axes, series = drawn(monkeypatch, figures.plot_grid, record, "a", "sepsize", "grid.png")
    by_share = {label: line.get_xdata() for label, line in series.items()}
    # Mean shares of (0.2 0.5 0.8) and 0.2 or 0.6 are removed of 1 GMAC.
    assert by_share["Transformer 0.2"] == pytest.approx([0.8, 0.65, 0.5])
    assert by_share["Transformer 0.6"] == pytest.approx([0.6, 0.45, 0.3])
    front = record.curve("a", "sepsize")
    shares = [f"{group.target.by_name()['cnn']:g}" for group in front]
    assert [text.get_text() for text in axes.texts] == shares
    assert by_share["Pareto front on clean"] == pytest.approx([g.macs / 1e9 for g in front])
    given = GivenPoint(**GIVEN)
    _, series = drawn(monkeypatch, figures.plot_methods, record, "a", "methods.png", [given])
    curve = series["sepsize (Pareto front)"].lines[0]
    assert curve.get_xdata() == pytest.approx([g.macs / 1e9 for g in front])
    theirs = series["theirs (given)"]
    assert (theirs.get_xdata()[0], theirs.get_ydata()[0]) == (0.5, 7.5)
    assert theirs.get_markerfacecolor() == "none"
    assert series["macs"].lines[0].get_markerfacecolor() != "none"


def test_given_points_are_named_with_their_source(recipe, caplog):
    elsewhere = GIVEN | {"name": "other", "test_set": "far"}
    Path("sweep.yaml").write_text(yaml.safe_dump(CONFIG | {"given": [GIVEN, elsewhere]}))
    run("--only", "a-macs-*")
    sentence = "given, not measured here: theirs, 0.5 GMACs, 7.5 % on clean (a paper, Table 1)."
    for name in ("RESULTS.md", "index.html"):
        assert sentence in Path("exp/sweep_test", name).read_text()
    assert "other is not drawn: no point of a was decoded on far" in caplog.text


def differences(text):
    """Rows of the first table of differences by the pair that they compare."""
    part = text.split("### Differences\n")[1].strip().split("\n\n")[0]
    rows = [line.strip("|").split("|") for line in part.splitlines() if "---" not in line]
    assert rows[0][:3] == ["first", "second", "GMACs"]
    return {(row[0], row[1]): row[2:] for row in rows[1:]}


def test_groups_are_compared_with_the_unpruned_model_and_with_other_methods(recipe):
    run()
    text = Path("exp/sweep_test/RESULTS.md").read_text()
    rows = differences(text)
    groups = ["macs 0.4", "macs 0.6", "size 0.4", "size 0.6"]
    sepsize = "sepsize cnn=0.5 transformer=0.3"
    assert set(rows) == {("unpruned", group) for group in [*groups, sepsize]} | {
        # Of equal MACs; sepsize has 0.6 GMACs as well.
        ("macs 0.4", "size 0.4"),
        ("macs 0.6", "size 0.6"),
        ("macs 0.4", sepsize),
        ("size 0.4", sepsize),
    }
    paths = Path("exp/sweep_test").glob("a-*/results.json")
    record = read_swept_models([(path.parent.name.split("-")[1], "a", path) for path in paths])
    by_label = {group.label: group for group in record.points["a"]}
    pair = [by_label["macs 0.4"].alignments("clean"), by_label["size 0.4"].alignments("clean")]
    assert list(map(len, pair)) == [3, 1]
    found = ComparedSystems(pair).compare(0, 1).difference
    macs, cell, p, other, other_p = rows["macs 0.4", "size 0.4"]
    assert macs == "0.6, 0.6" and p == "-"
    assert cell.startswith(f"{found.value:+.2f} [{found.low:+.2f}, {found.high:+.2f}]")
    # Both have heard the other set like the unpruned model.
    assert (other, other_p) == ("+0.00 [+0.00, +0.00]", "-")
    unpruned = rows["unpruned", "macs 0.6"]
    assert unpruned[1].endswith(" *") and unpruned[2] == "< 0.001" and unpruned[4] == "1.000"
    assert "The errors of several seeds are averaged by utterance and resampled together" in text


def test_results_without_alignments_are_still_read(recipe):
    run()

    def forget(*paths):
        for path in paths:
            record = json.loads(path.read_text())
            record.pop("utterances", None)
            for model in record["models"]:
                model.pop("alignments", None)
            path.write_text(json.dumps(record))
        run("--report_only")
        return Path("exp/sweep_test/RESULTS.md").read_text()

    text = forget(Path("exp/sweep_test/a-macs-0.4/results.json"))
    rows = differences(text)
    # One seed of three has none, and there is no mean over the others.
    assert not any("macs 0.4" in pair for pair in rows) and ("unpruned", "macs 0.6") in rows
    assert "1 of 8 pruned models are not compared: their results are from before" in text
    text = forget(*Path("exp/sweep_test").glob("*/results.json"))
    assert "### Differences" not in text
    assert "these results are from before alignments were kept in results.json." in text


def test_other_utterances_are_not_compared(recipe, caplog):
    run()
    path = Path("exp/sweep_test/a-size-0.6/results.json")
    path.write_text(path.read_text().replace("s-07", "s-77"))
    run("--report_only")
    rows = differences(Path("exp/sweep_test/RESULTS.md").read_text())
    assert not any("size 0.6" in pair for pair in rows) and ("unpruned", "size 0.4") in rows
    assert "size 0.6 of a was decoded on other utterances of clean" in caplog.text
