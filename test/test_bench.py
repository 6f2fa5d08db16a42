"""The benchmark command: what it measures, not how fast this machine is."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from models import attached, latency_table, random_encoder, small_config
from recipe_runs import ROOT

from espnet_hjprune.alternation import alternate
from espnet_hjprune.benchmark import timing
from espnet_hjprune.benchmark.compare import Comparison, compare_inference, contenders
from espnet_hjprune.benchmark.machine import describe
from espnet_hjprune.benchmark.models import (
    RUNTIMES,
    exported_model,
    hugging_face_model,
    in_mode,
    own_model,
    peer_model,
    pruned_encoder,
)
from espnet_hjprune.benchmark.modes import compiled, never_waits, runs_at_all
from espnet_hjprune.benchmark.peers import usable_peers
from espnet_hjprune.benchmark.table import as_table
from espnet_hjprune.benchmark.timing import (
    median_ratio,
    peak_memory,
    product_rate,
    reserved_memory,
)
from espnet_hjprune.benchmark.training_step import _encode, _own_steps
from espnet_hjprune.bin import bench
from espnet_hjprune.errors import HJPruneError
from espnet_hjprune.nn.config import DropoutConfig
from espnet_hjprune.pruning.config import PruningConfig
from espnet_hjprune.pruning.cost import config_counts, encoder_cost
from espnet_hjprune.pruning.pruner import Pruner
from espnet_hjprune.upstream.architectures import ARCHITECTURES

MINI = "wav2vec2_mini"
ON_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


def comparison(**changes) -> Comparison:
    """What a test compares."""
    options = {
        "upstream": MINI,
        "targets": [],
        "latency_table": "",
        "latency_targets": [],
        "round_to": 1,
        "model_dirs": [],
        "peers": [],
        "modes": ["eager"],
        "runtimes": [],
        "seconds": [0.5],
        "batches": [2],
        "repeats": 1,
        "device": "cpu",
        "dtype": "float32",
        "half_weights": False,
        "rate": 1e9,
    }
    return Comparison(**(options | changes))


# torch's own, while it traces functions with gradients of their own.
TRACING = pytest.mark.filterwarnings(
    "ignore:<class 'torch.autograd.function.Function'> should not be:DeprecationWarning"
)


def without_a_compiler(monkeypatch) -> None:
    """Let torch.compile trace, which is what may fail, without minutes of C++."""
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))


def test_models_take_turns():
    calls = []
    runs = {name: (lambda name=name: calls.append(name)) for name in "ab"}
    seconds = alternate(runs, repeats=3, warm_up=1)
    assert "".join(calls) == "ba" + "ab" + "ba" + "ab"
    assert [len(times) for times in seconds.values()] == [3, 3]
    slow = alternate({"a": lambda: time.sleep(0.02)}, repeats=1)["a"]
    assert 0.02 <= slow[0] < 1
    assert median_ratio([1.0, 2.0, 1.0], [2.0, 2.0, 3.0]) == 2.0


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="Linux counts it")
def test_peak_memory_is_that_of_the_call():
    size = 64 * 2**20
    measured = peak_memory(lambda: torch.zeros(size // 4).sum())
    assert 0.9 * size < measured < 1.3 * size
    again = peak_memory(lambda: torch.zeros(size // 4).sum())
    assert 0.9 * size < again < 1.3 * size


@ON_GPU
def test_reserved_memory_is_that_of_the_call():
    size = 256 * 2**20
    measured = reserved_memory(lambda: torch.zeros(size // 4, device="cuda").sum(), "cuda")
    assert size <= measured < 1.2 * size


def test_the_fastest_product_counts(monkeypatch):
    measured = {"product": [0.5, 0.25, 1.0]}
    monkeypatch.setattr(timing, "alternate", lambda *_, **__: measured)
    assert product_rate("cpu", torch.float32) == 2 * 1024**3 / 0.25


@pytest.mark.parametrize("error", [ImportError, AttributeError, OSError, RuntimeError])
def test_what_imports_raise_leaves_a_package_out(error, caplog):
    def load(peer: str) -> None:
        if peer == "s3prl":
            raise error("no module\nof this name")

    peers = ["huggingface", "s3prl", "torchaudio"]
    assert usable_peers(peers, load, asked_for=False) == ["huggingface", "torchaudio"]
    (warning,) = caplog.messages
    assert "s3prl is left out" in warning and warning.endswith(f"{error.__name__}: no module")
    refusal = rf"--peers has s3prl, which cannot be imported \({error.__name__}: no module\); inst"
    with pytest.raises(HJPruneError, match=refusal):
        usable_peers(peers, load, asked_for=True)
    assert usable_peers(["torchaudio"], load, asked_for=True) == ["torchaudio"]
    with pytest.raises(KeyError):
        usable_peers(peers, lambda peer: {}["other errors are ours"], asked_for=False)


@pytest.mark.parametrize("target", [0.2, 0.6])
def test_random_pruning_meets_the_target(target):
    encoder = random_encoder(small_config())
    compact = pruned_encoder(encoder, target)

    def macs(config):
        return encoder_cost(config, config_counts(config), "macs", 160_000)

    assert macs(compact.config) / macs(encoder.config) == pytest.approx(1 - target, abs=0.01)
    widths = [layer.channels for layer in compact.config.conv_layers]
    assert len(set(widths)) > 1


@pytest.mark.parametrize("peer", ["s3prl", "huggingface", "torchaudio"])
def test_peers_are_of_the_same_architecture(peer):
    config = ARCHITECTURES[MINI]()
    contender = peer_model(peer, MINI, config)
    with torch.inference_mode():
        output = contender.forward(torch.randn(2, 16000))
    assert output.shape[0] == 2 and output.shape[2] == config.hidden_size
    assert output.shape[1] in (49, 50)
    expected = encoder_cost(config, config_counts(config), "params", 160_000)
    counted = sum(parameter.numel() for parameter in contender.module.parameters())
    # s3prl keeps the quantiser of pre-training, which takes no part in the forward pass.
    assert counted == pytest.approx(expected, rel=0.15 if peer == "s3prl" else 0.02)


def test_hugging_face_trains_with_our_dropout():
    config = ARCHITECTURES[MINI]()
    model = hugging_face_model(MINI, config, DropoutConfig(0.1, 0.2, 0.3, 0.4))
    assert model.feature_projection.dropout.p == 0.1
    assert model.encoder.dropout.p == 0.2
    for layer in model.encoder.layers:
        assert layer.dropout.p == layer.feed_forward.output_dropout.p == 0.2
        assert layer.attention.dropout == 0.3
        assert layer.feed_forward.intermediate_dropout.p == 0.4
    assert not model.config.apply_spec_augment and model.config.layerdrop == 0


def test_models_pruned_to_seconds_and_their_predictions(tmp_path):
    table = replace(latency_table(ARCHITECTURES[MINI](), step=8), seconds=0.5, batch=2)
    path = tmp_path / "latency.json"
    path.write_text(json.dumps(table.to_dict()))
    options = comparison(targets=[0.5], latency_table=str(path), latency_targets=[0.5])
    rows = compare_inference(options)
    assert [row["model"] for row in rows] == ["dense", "compact 50%", "compact 50% of the seconds"]
    dense, macs, seconds = (row["predicted"] for row in rows)
    assert 0.4 * dense < seconds <= 0.5 * dense and seconds != macs
    machine = describe("cpu", "float32") | {"half_weights": False, "product_rate": 1e9}
    assert "|predicted (s)|" in as_table({"machine": machine, "rows": rows})
    assert "predicted" not in compare_inference(replace(options, batches=[1]))[0]
    with pytest.raises(HJPruneError, match="of another architecture"):
        compare_inference(replace(options, upstream="hubert_large"))


@pytest.mark.parametrize("peer", ["s3prl", "huggingface", "torchaudio"])
def test_weights_in_half_precision(peer):
    options = {"peers": [peer], "targets": [0.5]}
    torch.manual_seed(1)
    exact = contenders(comparison(**options))
    torch.manual_seed(1)
    half = contenders(comparison(**options, half_weights=True, dtype="bfloat16"))
    wave = 0.1 * torch.randn(2, 16000)
    for wide, narrow in zip(exact, half, strict=True):
        narrow.module.load_state_dict(wide.module.state_dict())
        assert {p.dtype for p in narrow.module.parameters()} == {torch.bfloat16}
        with torch.inference_mode():
            expected, found = wide.forward(wave), narrow.forward(wave)
        assert expected.dtype == torch.float32 and found.dtype == torch.bfloat16
        both = torch.stack([found.float().flatten(), expected.flatten()])
        assert torch.corrcoef(both)[0, 1] > 0.9, wide.name


def test_autocast_is_within_every_call():
    (model,) = contenders(comparison(dtype="bfloat16"))
    assert {p.dtype for p in model.module.parameters()} == {torch.float32}
    seen = []
    hook = model.module.transformer.layers[0].attention.qkv.register_forward_hook
    handle = hook(lambda _, __, output: seen.append(output.dtype))
    with torch.inference_mode():
        model.forward(torch.zeros(1, 8000))
    handle.remove()
    assert seen == [torch.bfloat16]


@TRACING
def test_compiled_models_take_part(monkeypatch):
    without_a_compiler(monkeypatch)
    model = own_model("dense", random_encoder(small_config()))
    eager, quick = (in_mode(model, mode, nullcontext) for mode in ("eager", "compile"))
    assert [eager.name, quick.name] == ["dense", "dense, compiled"]
    wave = 0.1 * torch.randn(2, 8000)
    with torch.inference_mode():
        torch.testing.assert_close(quick.forward(wave), eager.forward(wave))
    steps = _own_steps(comparison(modes=["eager", "compile"]), small_config())
    names = ["without gates", "with gates", "without gates, compiled", "with gates, compiled"]
    assert list(steps) == names
    for step in steps.values():
        step(wave)


@TRACING
def test_noise_of_gates_is_not_compiled(monkeypatch):
    without_a_compiler(monkeypatch)
    encoder = random_encoder(small_config())
    # Two equal pruners draw the same noise, other noise in every step.
    pruners = [attached(Pruner(encoder.config, PruningConfig())) for _ in range(2)]
    pruners[1].load_state_dict(pruners[0].state_dict())
    wave, lengths = 0.1 * torch.randn(1, 8000), torch.tensor([8000])
    runs = list(zip((encoder, compiled(encoder)), pruners, strict=True))
    states = []
    for _ in range(2):
        eager, quick = (_encode(run, pruner, wave, lengths) for run, pruner in runs)
        torch.testing.assert_close(quick, eager, atol=1e-4, rtol=1e-4)
        states.append(quick)
    assert (states[0] - states[1]).abs().max() > 1e-3


def test_a_mode_that_does_not_run_is_left_out(caplog):
    assert not runs_at_all("huggingface, compiled", lambda: [][0])
    (warning,) = caplog.messages
    assert warning.startswith("huggingface, compiled is left out") and "IndexError" in warning


@ON_GPU
def test_graphs_compute_the_same():
    encoder = random_encoder(small_config()).cuda()
    wave = 0.1 * torch.randn(2, 16000, device="cuda")
    model = own_model("dense", encoder)
    for autocast in (nullcontext, partial(torch.autocast, "cuda", torch.bfloat16)):
        eager, graph = (in_mode(model, mode, autocast) for mode in ("eager", "graph"))
        assert graph.name == "dense, CUDA graph"
        with torch.inference_mode():
            torch.testing.assert_close(graph.forward(wave), eager.forward(wave))


@ON_GPU
def test_what_waits_for_the_gpu_is_no_graph():
    ones = torch.ones(3, device="cuda")
    never_waits(lambda: ones.sum())
    with pytest.raises(RuntimeError):
        never_waits(lambda: ones.sum().item())
    assert ones.sum().item() == 3


@ON_GPU
def test_inference_on_a_gpu(capsys):
    options = ["--upstream", MINI, "--seconds", "1", "--repeats", "2", "--targets", "0.5"]
    options += ["--device", "cuda", "--dtype", "bfloat16", "--half_weights", "--json", "-"]
    bench.main([*options, "--peers", "--modes", "eager", "graph"])
    result = json.loads(capsys.readouterr().out)
    names = ["dense", "compact 50%", "dense, CUDA graph", "compact 50%, CUDA graph"]
    assert [row["model"] for row in result["rows"]] == names
    assert result["rows"][0]["reserved_memory"] >= result["rows"][0]["peak_memory"] > 0
    assert all(0 < row["share_of_peak"] < 1 for row in result["rows"])


def test_inference_table_json_and_picture(tmp_path, capsys):
    options = ["--upstream", MINI, "--seconds", "0.5", "--batch", "1", "2", "--repeats", "2"]
    options += ["--targets", "0.5", "--json", f"{tmp_path}/speed.json"]
    bench.main([*options, "--image", f"{tmp_path}/speed.png"])
    table = capsys.readouterr().out
    assert "|compact 50%|2 x 0.5 s|" in table
    result = json.loads((tmp_path / "speed.json").read_text())
    rows = result["rows"]
    assert [row["model"] for row in rows] == ["s3prl", "dense", "compact 50%"] * 2
    # The target is met at 10 s.
    assert rows[2]["mac_reduction"] == pytest.approx(2, abs=0.4)
    config = ARCHITECTURES[MINI]()
    macs = encoder_cost(config, config_counts(config), "macs", 8000)
    rate = result["machine"]["product_rate"]
    assert 1e9 < rate < 1e14
    for row in (rows[1], rows[4]):
        expected = 2 * macs * row["batch"] / row["latency"] / rate
        assert row["share_of_peak"] == pytest.approx(expected, rel=0.01)
    pairs = zip(rows[2]["latencies"], rows[1]["latencies"], strict=True)
    ratios = [dense / compact for compact, dense in pairs]
    assert rows[2]["against_dense"] == pytest.approx(sum(ratios) / 2)
    assert "against_dense" not in rows[0] and "against_dense" not in rows[1]
    assert "|reserved memory" not in table and "|time / bare step" not in table
    for row in rows:
        assert row["latency"] > 0 and len(row["latencies"]) == 2
        assert row["real_time_factor"] == row["latency"] / (row["seconds"] * row["batch"])
    assert rows[0]["speed_up"] == 1
    assert (tmp_path / "speed.png").stat().st_size > 10_000


def test_training_steps(capsys):
    options = ["--upstream", MINI, "--seconds", "0.5", "--repeats", "1", "--training"]
    bench.main([*options, "--json", "-"])
    rows = json.loads(capsys.readouterr().out)["rows"]
    names = ["without gates", "with gates"]
    assert [row["model"] for row in rows] == [*names, "ESPnet's s3prl frontend"]
    bench.main([*options, "--peers", "huggingface", "--json", "-"])
    result = json.loads(capsys.readouterr().out)
    assert [row["model"] for row in result["rows"]] == [*names, "huggingface"]
    config = ARCHITECTURES[MINI]()
    macs = encoder_cost(config, config_counts(config), "macs", 8000)
    for row in result["rows"]:
        expected = 6 * macs / row["latency"] / result["machine"]["product_rate"]
        assert row["share_of_peak"] == pytest.approx(expected, rel=0.01)


# s3prl is not there, or is one that does not fit to torch.
BROKEN = {
    "absent": "import sys; sys.modules['s3prl'] = None",
    "broken": "import sys; sys.path.insert(0, 'elsewhere')",
}


def bench_without_s3prl(how: str, command: str, directory: Path, *options: str):
    """Run a benchmark in a process that cannot import s3prl."""
    package = directory / "elsewhere" / "s3prl"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise AttributeError('torchaudio has no sox_effects')")
    module = f"espnet_hjprune.bin.{command}"
    code = f"{BROKEN[how]}; import runpy; runpy.run_module({module!r}, run_name='__main__')"
    return subprocess.run(
        [sys.executable, "-c", code, "--upstream", MINI, *options],
        cwd=directory,
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize(("how", "training"), [("absent", False), ("broken", True)])
def test_without_s3prl_the_others_are_measured(how, training, tmp_path):
    options = ["--seconds", "0.5", "--repeats", "1", "--targets", "--json", "-"]
    options += ["--training"] if training else []
    done = bench_without_s3prl(how, "bench", tmp_path, *options)
    assert done.returncode == 0, done.stderr
    names = ["without gates", "with gates"] if training else ["dense"]
    rows = json.loads(done.stdout)["rows"]
    assert [row["model"] for row in rows] == names and rows[0]["speed_up"] == 1
    (warning,) = (line for line in done.stderr.splitlines() if "WARNING" in line)
    assert "s3prl is left out of the comparison, as it cannot be imported: " in warning


@pytest.mark.parametrize(
    ("command", "options", "message"),
    [
        ("bench", ["--peers", "s3prl"], "--peers has s3prl, which cannot be imported ("),
        ("bench", ["--training", "--peers", "s3prl"], "--peers has s3prl, which cannot be imp"),
        ("bench", ["--training", "--recipe"], "--recipe needs s3prl, which cannot be imported ("),
        ("gpu_figures", ["--device", "cpu", "--peers", "s3prl"], "--peers has s3prl, which canno"),
    ],
)
def test_s3prl_that_is_asked_for_is_refused_at_once(command, options, message, tmp_path):
    done = bench_without_s3prl("broken", command, tmp_path, *options)
    assert done.returncode == 1 and not done.stdout
    *before, sentence = done.stderr.splitlines()
    assert sentence.startswith(f"error: {message}")
    assert "leave" in sentence and not any("Timing" in line for line in before)


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_exported_models_take_part(runtime):
    dense = own_model("dense", random_encoder(small_config()))
    exported = exported_model(dense, runtime)
    wave = 0.1 * torch.randn(2, 16000)
    with torch.inference_mode():
        expected, found = dense.forward(wave), exported.forward(wave)
    loose = runtime.endswith(("int8", "bf16"))
    torch.testing.assert_close(found, expected, atol=0.3 if loose else 1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--peers", "fairseq"], "--peers has no fairseq"),
        (["--targets", "1.5"], "--targets has 1.5"),
        (["--latency_targets", "0.5"], "seconds that --latency_table tells"),
        (["--runtimes", "tvm"], "--runtimes has no tvm; it takes onnx"),
        (["--runtimes", "onnx", "--training"], "--runtimes go with --device cpu"),
        (["--modes", "fast"], "--modes has no fast; it takes eager, graph, compile"),
        (["--modes", "graph"], "--modes graph goes with --device cuda"),
        (["--half_weights"], "--half_weights goes with --dtype bfloat16 or float16"),
        (["--training", "--peers", "torchaudio"], "leave it out of --peers"),
        (["--recipe"], "--recipe goes with --training and --dtype float32"),
        (["--recipe", "--training", "--dtype", "bfloat16"], "--recipe goes with --training"),
        (["--seconds", "0.001"], "--seconds has 0.001; give at least"),
        (["--threads", "0"], "--threads must be positive"),
        (["--training", "--image", "x.png"], "leave --image and --model_dir out"),
        (["--upstream", MINI, "--targets", "0.4", "0.40001"], "compact 40% would take part twice"),
        (["--upstream", "wav2vec3"], "no architecture is called wav2vec3"),
        (["--upstream", "wavlm_base", "--peers", "torchaudio"], "torchaudio is not compared"),
    ],
)
def test_wrong_options_are_refused(options, message):
    with pytest.raises(HJPruneError, match=message):
        bench.main(options)
