"""Steps through ESPnet beside bare ones, and the page of a GPU's figures: tried on the CPU."""

from __future__ import annotations

import json
import shlex
import sys
import time

import pytest
from test_bench import MINI, comparison

from espnet_hjprune.benchmark import recipe_step
from espnet_hjprune.benchmark.gpu_figures import Group, Sizes, groups, run_group
from espnet_hjprune.benchmark.recipe_step import add_recipe_rows, reserved_bytes, step_times
from espnet_hjprune.bin import bench, gpu_figures
from espnet_hjprune.errors import HJPruneError
from espnet_hjprune.training.training_log import parse_training_log

LOG = """
: 1/1epoch started
: 1epoch:train:1-4batch: iter_time=2.000, train_time=9.000
: 1epoch:train:5-8batch: iter_time=0.100, train_time=8.000
: 1epoch:train:9-12batch: iter_time=0.100, train_time=4.000
: 1epoch:train:13-16batch: iter_time=0.100, train_time=6.000
: 1epoch results: [train] train_time=6.750, gpu_max_cached_mem_GB=1.500, [valid] loss=1.0
"""


def test_times_are_read_from_the_log():
    log = parse_training_log(LOG.splitlines())
    assert step_times(log, accum_grad=4) == [1.0, 1.5]
    assert reserved_bytes(log) == 1536 * 2**20
    short = parse_training_log(LOG.splitlines()[:4])
    assert reserved_bytes(short) is None
    with pytest.raises(HJPruneError, match="has 2 steps"):
        step_times(short, accum_grad=4)


def test_without_espnet_its_rows_are_refused_or_left_out(monkeypatch, tmp_path, caplog):
    monkeypatch.setitem(sys.modules, "espnet2", None)
    with pytest.raises(HJPruneError, match="--recipe needs ESPnet, which is not installed"):
        bench.main(["--upstream", MINI, "--training", "--peers", "--recipe"])
    made = []
    monkeypatch.setattr("espnet_hjprune.benchmark.gpu_figures.run_group", made.append)
    with pytest.raises(HJPruneError, match="Training failed"):
        figures(tmp_path, "--groups", "training")
    assert "--recipe" not in made[0].options
    (warning,) = (text for text in caplog.messages if "Rows through" in text)
    assert warning.startswith("Rows through ESPnet are left out: --recipe needs ESPnet")


def test_steps_through_espnet(tmp_path, monkeypatch, capsys):
    # Both stages run the same way; starting ESPnet is what takes long.
    monkeypatch.setattr(recipe_step, "STAGES", recipe_step.STAGES[1:])
    options = ["--upstream", MINI, "--seconds", "0.5", "--batch", "2", "--repeats", "2"]
    options += ["--training", "--recipe", "--peers", "--json", f"{tmp_path}/steps.json"]
    start = time.monotonic()
    bench.main(options)
    wall = time.monotonic() - start
    table = capsys.readouterr().out
    _, bare, through = json.loads((tmp_path / "steps.json").read_text())["rows"]
    assert (bare["model"], through["model"]) == ("with gates", "pruning through ESPnet")
    assert len(through["latencies"]) == 2
    # Two steps of four batches are timed, more are run.
    assert 1e-3 < through["latency"] < wall / 8
    assert through["over_bare"] == pytest.approx(through["latency"] / bare["latency"])
    assert f"{through['over_bare']:.2f}|" in table
    assert through["macs"] == bare["macs"] and through["reserved_memory"] is None


def test_a_training_that_fails_is_left_out(monkeypatch, caplog):
    broken = recipe_step.Stage("pruning", "prune.yaml", ("--ramp_epochs", "1"), "with gates")
    monkeypatch.setattr(recipe_step, "STAGES", (broken,))
    rows = [{"model": "with gates", "seconds": 0.5, "batch": 1, "latency": 1.0}]
    assert add_recipe_rows(comparison(), rows) == rows
    assert "ramp_epochs 1 does not end before the 1 epochs" in caplog.messages[-1]


SMALL = (
    f"--device cpu --upstream {MINI} --large_upstream {MINI} --max_seconds 0.5 --max_batch 2 "
    "--max_repeats 1 --modes eager graph --peers"
)


def figures(tmp_path, *options: str) -> None:
    """Run the command on tiny models and audio."""
    gpu_figures.main([*SMALL.split(), "--output", str(tmp_path), *options])


def test_page_of_figures(tmp_path, capsys):
    figures(tmp_path, "--groups", "memory", "inference")
    page = capsys.readouterr().out
    (markdown,) = tmp_path.glob("*.md")
    assert markdown.read_text() + "\n" == page
    (file,) = tmp_path.glob("*.json")
    results = json.loads(file.read_text())
    names = [f"Memory of {MINI}"] * 2 + ["Inference"]
    assert [result["title"] for result in results] == names
    assert page.startswith(f"# {results[0]['machine']['device']}, torch ")
    for result in results:
        assert f"    {result['command']}\n" in page
        assert {row["command"] for row in result["rows"]} == {result["command"]}
    models = ["dense", "compact 40%", "compact 60%"]
    assert [row["model"] for row in results[2]["rows"]] == models * 2
    assert [row["batch"] for row in results[2]["rows"]] == [1] * 3 + [2] * 3


def test_commands_of_a_gpu_can_be_run():
    sizes = Sizes(
        "cuda", "wav2vec2_base", "wav2vec2_large", ("huggingface",), ("eager", "graph", "compile"),
        30.0, 16, 15,
    )  # fmt: skip
    made = {group.title: group for group in groups(sizes)}
    options = {}
    for title, group in made.items():
        *program, module = shlex.split(group.command)[:3]
        assert (program, module) == (["python3", "-m"], "espnet_hjprune.bin.bench")
        options[title] = bench.get_parser().parse_args(shlex.split(group.command)[3:])
    training = options["Training"]
    assert (training.batch, training.seconds, training.dtype) == ([16], [14.5], "bfloat16")
    assert training.recipe and training.modes == ["eager", "compile"]
    assert training.peers == ["huggingface"]
    assert options["Memory of wav2vec2_base"].batch == [16]
    assert options["Memory of wav2vec2_large"].batch == [8]
    assert options["Memory of wav2vec2_large"].seconds == [24.5]
    inference = options["Inference"]
    assert inference.half_weights and inference.modes == ["eager", "graph"]
    assert inference.batch == [1, 16] and inference.targets == [0.4, 0.6]


def test_a_benchmark_that_fails_is_left_out(caplog):
    assert run_group(Group("Training", ("--seconds", "0"))) is None
    assert caplog.messages[-1] == "Training is left out, as its benchmark failed"


def test_wrong_options_are_refused(tmp_path):
    with pytest.raises(HJPruneError, match="--groups has no speed; it takes training, memory"):
        figures(tmp_path, "--groups", "speed")
    with pytest.raises(HJPruneError, match="--peers has no fairseq; it takes s3prl, huggingface"):
        figures(tmp_path, "--peers", "fairseq")
    with pytest.raises(HJPruneError, match="--modes has no fast; it takes eager, graph, compile"):
        figures(tmp_path, "--modes", "fast")
    with pytest.raises(HJPruneError, match="no architecture is called wav2vec3"):
        figures(tmp_path, "--large_upstream", "wav2vec3")
    assert not list(tmp_path.iterdir())


def test_each_group_has_the_peers_that_it_can_compare():
    peers = ("huggingface", "torchaudio")
    sizes = Sizes("cpu", MINI, MINI, peers, ("eager",), 1.0, 2, 1, recipe=False)
    made = {group.title: bench.get_parser().parse_args(group.options) for group in groups(sizes)}
    assert made["Training"].peers == ["huggingface"] and not made["Training"].recipe
    assert made["Inference"].peers == ["huggingface", "torchaudio"]
