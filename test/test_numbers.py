"""Numbers in configurations and options: ``3e-4`` is one, whoever reads it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st

from espnet_hjprune.config_file import parse_config, read_config, with_numbers
from espnet_hjprune.errors import HJPruneError
from espnet_hjprune.model.espnet_config import upstream_options
from espnet_hjprune.sweep.config import SweepConfig
from espnet_hjprune.training import steps

NUMBERS = {
    "3e-4": 3e-4,
    "4E-1": 0.4,
    "1e3": 1000.0,
    "-2e+05": -2e5,
    "+.5e2": 50.0,
    "3.e2": 300.0,
    "3.2e6": 3.2e6,
    "1.5E-10": 1.5e-10,
}
TEXTS = ("1e", "e3", "1e3x", "0x1e3z", "1.2.3e4", "1e3.5", "--1e3", ". e3", "1e-", "v1e3", "1 e3")


@pytest.mark.parametrize("text", NUMBERS)
def test_plain_numbers_are_numbers_everywhere(text: str) -> None:
    expected = NUMBERS[text]
    for yaml_text in (f"a: {text}", f"a: {text}  # rate", f"{{a: {text}}}", f"a:\n    {text}\n"):
        found = parse_config(yaml_text)["a"]
        assert type(found) is float and found == expected
    assert parse_config(f"a: [0.9, {text}]")["a"] == [0.9, expected]
    assert with_numbers({"a": [text, "x"], "b": (text,)}) == {
        "a": [expected, "x"],
        "b": (expected,),
    }


@given(st.floats(allow_nan=False, allow_infinity=False), st.sampled_from(["e", "E", ".3e", "r"]))
def test_whatever_python_prints_is_read(number: float, form: str) -> None:
    text = repr(number) if form == "r" else f"{number:{form}}"
    assert parse_config(f"a: {text}")["a"] == float(text)
    assert with_numbers(text) == float(text)


@pytest.mark.parametrize("text", TEXTS)
def test_what_is_no_number_stays_a_text(text: str) -> None:
    assert parse_config(f"a: {text}")["a"] == text
    assert with_numbers(text) == text


@pytest.mark.parametrize("text", ["1e3", "3e-4", ".5e2"])
def test_texts_that_look_like_numbers_stay_texts(text: str, tmp_path: Path) -> None:
    for quoted in (f"'{text}'", f'"{text}"', f"!!str {text}", f"|-\n  {text}"):
        assert parse_config(f"a: {quoted}")["a"] == text
    assert list(parse_config(f"{text}: 1")) == [text]
    # ESPnet writes tokens without quotes.
    config = {"token_list": ["<blank>", text, "a", "<unk>"], "names": [[text, "speech"]]}
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(config, default_flow_style=False))
    assert f"- {text}\n" in path.read_text()
    assert read_config(path) == config


@pytest.mark.parametrize(
    "text",
    ["a: 010", "a: 1_000", "a: .inf", "a: 2026-11-27", "a: 1:30", "a: yes", "a: 1.5", "a: ~"],
)
def test_everything_else_is_as_espnet_reads_it(text: str) -> None:
    assert parse_config(text) == yaml.safe_load(text)


def test_our_options_take_them(tmp_path: Path) -> None:
    path = tmp_path / "prune.yaml"
    path.write_text(
        "frontend: hj_prune\nfrontend_conf:\n  frontend_conf: {upstream: hubert_base}\n"
        "  dropout: {hidden: 1e-1}\n  masking: {time_prob: 5e-2}\n"
        "  pruning: {target_sparsity: 4e-1, gate_lr: 2e-2, stretch: [-1e-1, 11e-1],"
        " round_to: 8e0}\n"
        "  distillation: {hidden: 1e-3}\n"
    )
    found = upstream_options(read_config(path), path)
    assert found.pruning is not None and found.distillation is not None
    assert found.pruning.targets == {"": 0.4} and found.pruning.gate_lr == 0.02
    assert found.pruning.stretch == (-0.1, 1.1) and found.pruning.round_to == 8
    assert found.dropout.hidden == 0.1 and found.masking.time_prob == 0.05
    assert found.distillation.hidden == 0.001
    separate = path.read_text().replace(
        "4e-1", "{cnn: 6e-1, transformer: 3e-1}, criterion: sepsize"
    )
    path.write_text(separate)
    options = upstream_options(read_config(path), path).pruning
    assert options is not None and options.targets == {"cnn": 0.6, "transformer": 0.3}


def test_a_sweep_takes_them(tmp_path: Path) -> None:
    path = tmp_path / "sweep.yaml"
    path.write_text("name: x\nmethods: {m: {}}\ngrids: [{methods: [m], targets: [4e-1, 0.6]}]\n")
    assert [point.target for point in SweepConfig.read(path).points()] == ["0.4", "0.6"]


def test_whole_numbers_are_whole() -> None:
    config = parse_config("batch_bins: 3.2e6\nmax_epoch: 1e1\nbatch_type: numel\naccum_grad: 4\n")
    options = steps.step_options(config, {})
    assert (options["batch_bins"], options["max_epoch"]) == (3200000, 10)
    assert all(type(options[name]) is int for name in ("batch_bins", "max_epoch", "accum_grad"))
    for text in ("max_epoch: 15e-1", "accum_grad: true", "batch_size: many"):
        with pytest.raises(HJPruneError, match="which is no whole number"):
            steps.step_options(parse_config(text), {})


@pytest.mark.parametrize("scheduler", ["linear_warmup_decay", "exponentiallr"])
def test_espnet_trains_with_them(scheduler: str, tmp_path: Path) -> None:
    """As ESPnet reads them itself: in a configuration, and behind an option."""
    from espnet_runs import TOKENS, make_corpus, prune_options, train

    corpus = make_corpus(tmp_path / "corpus", ["wav.scp,speech,sound", "text,text,text_int"])
    conf: dict[str, Any] = {"gamma": "5e-1"}
    if scheduler == "linear_warmup_decay":
        conf = {"warmup_steps": "2e0", "total_steps": 9}
    common = {"token_list": TOKENS, "use_preprocessor": False, "encoder": None, "max_epoch": 1}
    options = prune_options(
        corpus,
        **common,
        model_conf={"ctc_weight": 1.0},
        optim_conf={"lr": "3e-4", "betas": [0.9, "98e-2"]},
        scheduler=scheduler,
        scheduler_conf=conf,
    )
    exp = train("asr", corpus, options, tmp_path / "exp", "--optim_conf", "weight_decay=1e-3")
    assert "lr: 3e-4\n" in (exp / "train.yaml").read_text()
    saved = yaml.safe_load((exp / "config.yaml").read_text())
    assert saved["optim_conf"] == {"lr": 3e-4, "betas": [0.9, 0.98], "weight_decay": 1e-3}
    group = torch.load(exp / "checkpoint.pth", weights_only=False)["optimizers"][0]["param_groups"][
        0
    ]
    assert (group["initial_lr"], group["weight_decay"]) == (3e-4, 1e-3)
    assert list(group["betas"]) == [0.9, 0.98]
    # Two steps.
    expected = 3e-4 * 0.5 if scheduler == "exponentiallr" else 3e-4
    assert group["lr"] == pytest.approx(expected)
