"""The benchmark command: what it measures, not how fast this machine is."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
import torch
from models import random_encoder, small_config

from espnet_hjprune.benchmark.models import (
    RUNTIMES,
    exported_model,
    own_model,
    peer_model,
    pruned_encoder,
)
from espnet_hjprune.benchmark.timing import alternate, median_ratio, peak_memory
from espnet_hjprune.bin import bench
from espnet_hjprune.errors import HJPruneError
from espnet_hjprune.pruning.cost import config_counts, encoder_cost
from espnet_hjprune.upstream.architectures import ARCHITECTURES

MINI = "wav2vec2_mini"


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
    bench.main([*options, "--peers", "--json", "-"])
    assert [row["model"] for row in json.loads(capsys.readouterr().out)["rows"]] == names


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
        (["--runtimes", "tvm"], "--runtimes has no tvm; it takes onnx"),
        (["--runtimes", "onnx", "--training"], "--runtimes go with --device cpu"),
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
