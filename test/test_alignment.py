"""``round_to: auto``: what is chosen among times, and that a number comes of it everywhere."""

import subprocess
import sys
from argparse import Namespace

import pytest
import torch
import yaml
from espnet_runs import task_module
from hypothesis import given
from hypothesis import strategies as st
from models import random_encoder, small_config
from test_espnet_plugin import encoder_form, options

import espnet_hjprune as hj
from espnet_hjprune.bin import compact as compact_command
from espnet_hjprune.errors import HJPruneError
from espnet_hjprune.model import alignment
from espnet_hjprune.model.alignment import (
    CANDIDATES,
    aligned,
    choose,
    fastest_alignment,
    measuring_on,
    prune_at_random,
)
from espnet_hjprune.pruning.config import PruningConfig
from espnet_hjprune.pruning.pruner import Pruner
from espnet_hjprune.upstream.random_checkpoint import save_random_checkpoint

CPU = torch.device("cpu")
AUTO = {"target_sparsity": 0.4, "ramp_steps": 0, "seconds": 0.5, "round_to": "auto"}


@pytest.fixture(autouse=True)
def _few_rounds(monkeypatch):
    """Which one is fast does not matter here."""
    monkeypatch.setattr(alignment, "MOST", 3)


@pytest.mark.parametrize(
    ("seconds", "chosen"),
    [
        ({1: [1.0], 8: [0.9], 32: [0.8], 64: [0.9]}, 32),
        ({1: [1.029], 8: [1.01], 32: [1.0]}, 1),
        ({1: [1.031], 8: [1.01], 32: [1.0]}, 8),
        # One slow round means nothing.
        ({1: [1.0, 1.0, 9.0], 8: [1.1, 1.1, 1.1]}, 1),
        ({64: [2.0], 16: [2.0]}, 16),
    ],
)
def test_the_smallest_of_the_fast_is_chosen(seconds, chosen):
    assert choose(seconds) == chosen


@given(st.dictionaries(st.sampled_from(CANDIDATES), st.floats(0.5, 1), min_size=1))
def test_what_is_chosen_is_fast_and_nothing_smaller_is(seconds):
    chosen = choose({number: [9.0, second, 0.1] for number, second in seconds.items()})
    limit = 1.03 * min(seconds.values())
    assert seconds[chosen] <= limit
    assert all(second > limit for number, second in seconds.items() if number < chosen)


def test_an_upstream_gets_a_number(caplog):
    caplog.set_level("INFO")
    upstream = hj.random_upstream("wav2vec2_mini")
    torch.manual_seed(0)
    pruner = upstream.add_gates(PruningConfig(**AUTO))
    state = torch.get_rng_state()
    number = pruner.options.round_to
    assert number in CANDIDATES
    for candidate in CANDIDATES:
        (line,) = [m for m in caplog.messages if m.startswith(f"round_to {candidate}: ")]
        assert line.endswith(" ms on cpu")
    assert f"round_to is auto: {number} is used" in caplog.messages
    counts = pruner.eval().kept_units()[1]
    assert all(count % number == 0 for count in [*counts.conv, *counts.ffn, counts.hidden])
    # With the number a training draws the same random numbers.
    torch.manual_seed(0)
    hj.random_upstream("wav2vec2_mini").add_gates(PruningConfig(**AUTO | {"round_to": number}))
    assert torch.equal(state, torch.get_rng_state())


def test_random_gates_meet_the_target_in_steps():
    encoder = random_encoder(small_config())
    for criterion, round_to in (("macs", 8), ("size", 4)):
        pruning = PruningConfig(criterion=criterion, target_sparsity=0.4, round_to=round_to)
        config = prune_at_random(encoder, pruning).config
        assert config.hidden_size % round_to == 0
        assert all(size % round_to == 0 for size in config.ffn_sizes)
        assert all(layer.channels % round_to == 0 for layer in config.conv_layers)
        assert sum(config.ffn_sizes) < 3 * 96


def test_alignments_that_cannot_meet_the_target_take_no_part():
    """All of the small model's widths are below 64, so that large steps remove little."""
    pruning = PruningConfig(**AUTO | {"target_sparsity": 0.8})
    assert fastest_alignment(small_config(), pruning, CPU) in (1, 8, 16)
    with pytest.raises(HJPruneError, match=r"target_sparsity 0\.9999 cannot be met"):
        fastest_alignment(small_config(), PruningConfig(**AUTO | {"target_sparsity": 0.9999}), CPU)


def test_wrong_values_are_refused():
    for wrong in ("fast", 8.5, None, True):
        with pytest.raises(HJPruneError, match="is no whole number; give one, or auto"):
            PruningConfig.from_dict({"round_to": wrong})
    for wrong in (0, -1, "fast"):
        with pytest.raises(HJPruneError, match="it must be a positive number or auto"):
            PruningConfig(round_to=wrong)
    with pytest.raises(HJPruneError, match="round_to is auto, which only an upstream's add_gates"):
        Pruner(small_config(), PruningConfig(round_to="auto"))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_asked_for():
    with measuring_on("cuda"), measuring_on("cpu"):
        with pytest.raises(HJPruneError, match="there is no GPU here to measure on; give a number"):
            aligned(PruningConfig(**AUTO), small_config(), CPU)
        assert aligned(PruningConfig(round_to=4), small_config(), CPU).round_to == 4


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_gpu_is_measured(dtype):
    device = torch.device("cuda")
    number = fastest_alignment(small_config(), PruningConfig(**AUTO), device, dtype, batch=2)
    assert number in CANDIDATES


AGREE = """
import sys
import torch
from models import small_config
from espnet_hjprune.model import alignment
from espnet_hjprune.pruning.config import PruningConfig
rank, file = int(sys.argv[1]), sys.argv[2]
torch.distributed.init_process_group("gloo", f"file://{file}", rank=rank, world_size=2)
alignment.fastest_alignment = lambda *_: [8, 32][rank]
options = PruningConfig(round_to="auto")
print(alignment.aligned(options, small_config(), torch.device("cpu")).round_to)
"""


def test_processes_that_train_together_agree(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", ":".join(sys.path))
    command = [sys.executable, "-c", AGREE]
    processes = [
        subprocess.Popen([*command, str(rank), str(tmp_path / "init")], stdout=subprocess.PIPE)
        for rank in range(2)
    ]
    assert [process.communicate()[0].split()[-1] for process in processes] == [b"8", b"8"]


@pytest.mark.parametrize("form", ["frontend", "encoder"])
def test_the_saved_configuration_has_the_number(form, tmp_path, monkeypatch):
    checkpoint = tmp_path / "upstream.pt"
    save_random_checkpoint(small_config(), "wav2vec2", checkpoint)
    config = options(str(checkpoint))
    config["frontend_conf"]["pruning"] = dict(AUTO)
    if form == "encoder":
        config["encoder_conf"] = encoder_form(str(checkpoint))["encoder_conf"]
        config["encoder_conf"]["pruning"] = dict(AUTO)
        config |= {"frontend": None, "frontend_conf": {}, "input_size": 1, "encoder": "hj_prune"}
    args = Namespace(**config)
    model = task_module("asr").ASRTask.build_model(args)
    number = vars(args)[f"{form}_conf"]["pruning"]["round_to"]
    assert number in CANDIDATES
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(vars(args)))
    torch.save(model.state_dict(), tmp_path / "model.pth")

    def measured_again(*_):
        raise AssertionError

    monkeypatch.setattr(alignment, "fastest_alignment", measured_again)
    compact_command.main(
        [
            "--train_config", f"{tmp_path}/config.yaml", "--model_file", f"{tmp_path}/model.pth",
            "--output_dir", f"{tmp_path}/compact", "--allow_off_target", "true",
        ]
    )  # fmt: skip
    compact = hj.load(tmp_path / "compact").config
    widths = [compact.hidden_size, *compact.ffn_sizes, *(c.channels for c in compact.conv_layers)]
    assert all(width % number == 0 for width in widths)
