"""Every ESPnet task that takes frontends or encoders: prune, compact, fine-tune."""

from __future__ import annotations

import json
import sys
import types
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchaudio
import yaml
from espnet2.asvspoof.decoder.abs_decoder import AbsDecoder
from espnet2.train.abs_espnet_model import AbsESPnetModel
from espnet_runs import (
    LENGTHS,
    TOKENS,
    Corpus,
    build_model,
    compact,
    last_epoch,
    make_corpus,
    prune_options,
    pruning_state,
    task_class,
    task_module,
    train,
    utterances,
    write_table,
)
from recipe_runs import ROOT

from espnet_hjprune.espnet.teacher import load_teacher
from espnet_hjprune.model.espnet_config import plugin_options

SPEECH, TEXT = "wav.scp,speech,sound", "text,text,text_int"
TRANSFORMER = {"attention_heads": 2, "linear_units": 16, "num_blocks": 1}
ENCODER = {
    "encoder": "transformer",
    "encoder_conf": {"output_size": 16, "input_layer": "linear", **TRANSFORMER},
}
CONFORMER = ENCODER | {"encoder": "conformer"}
E_BRANCHFORMER = {
    "encoder": "e_branchformer",
    "encoder_conf": {**ENCODER["encoder_conf"], "cgmlp_linear_units": 32},
}
RNN = {
    "encoder": "rnn",
    "encoder_conf": {"num_layers": 1, "hidden_size": 8, "output_size": 16, "subsample": None},
}
DECODER = {"decoder": "transformer", "decoder_conf": TRANSFORMER}
SYMBOLS = [*TOKENS[:2], "<na>", *TOKENS[2:-1], "<sos>", "<eos>", "<sop>"]
# What the teacher and the pruned model are compared by is in these tasks the hidden states only.
WITHOUT_OUTPUTS = ("asr_transducer", "diar", "spk", "asvspoof")
TOKEN_LIST = {"token_list": TOKENS, "use_preprocessor": False}


@dataclass(frozen=True)
class Case:
    """A task, its form and options, and the files it reads."""

    task: str
    form: str
    options: dict[str, Any]
    files: tuple[str, ...] = (SPEECH, TEXT)
    valid: tuple[str, ...] = ()


class RNNTLoss(torch.nn.Module):
    """The loss of warprnnt_pytorch, which has no wheels, computed by torchaudio."""

    def __init__(self, blank: int = 0, reduction: str = "mean", **_: Any) -> None:
        super().__init__()
        self.loss = torchaudio.transforms.RNNTLoss(blank=blank, reduction=reduction)

    def forward(self, acts, labels, act_lens, label_lens):
        """Loss of logits ``(batch, time, labels + 1, tokens)``."""
        return self.loss(acts, labels.int(), act_lens.int(), label_lens.int())


@pytest.fixture(autouse=True)
def transducer_loss(monkeypatch):
    """A module warprnnt_pytorch, which ESPnet's installer builds from source."""
    module = types.ModuleType("warprnnt_pytorch")
    module.RNNTLoss = RNNTLoss
    monkeypatch.setitem(sys.modules, "warprnnt_pytorch", module)


class MeanDecoder(AbsDecoder):
    """A decoder for the task asvspoof, whose own one is not finished in this release."""

    def __init__(self, encoder_output_size: int) -> None:
        super().__init__()
        self.output = torch.nn.Linear(encoder_output_size, 1)

    def forward(self, states, lengths):
        """Scores of the mean states, ``(batch, 1)``."""
        return self.output(states.mean(1))


@pytest.fixture(autouse=True)
def spoof_decoder(monkeypatch):
    """What an asvspoof recipe must bring."""
    choices = task_module("asvspoof").decoder_choices
    monkeypatch.setitem(choices.classes, "mean", MeanDecoder)


CASES = [
    *(
        Case(
            "asr",
            "frontend",
            {**encoder, **DECODER, **TOKEN_LIST, "model_conf": {"ctc_weight": 0.3}},
        )
        for encoder in (CONFORMER, E_BRANCHFORMER, RNN)
    ),
    Case(
        "asr",
        "encoder",
        {**TOKEN_LIST, "decoder": "linear_decoder", "model_conf": {"ctc_weight": 0.0}},
        (SPEECH, "intent,text,text_int"),
    ),
    Case("asr", "encoder", {**TOKEN_LIST, "model_conf": {"ctc_weight": 1.0}}),
    Case(
        "asr",
        "frontend",
        {
            **ENCODER,
            **TOKEN_LIST,
            "decoder": "transducer",
            "decoder_conf": {"hidden_size": 8, "num_layers": 1},
            "joint_net_conf": {"joint_space_size": 8},
            "model_conf": {"ctc_weight": 0.3},
        },
    ),
    Case(
        "asr",
        "frontend",
        {
            **ENCODER,
            **TOKEN_LIST,
            "decoder": "mlm",
            "decoder_conf": TRANSFORMER,
            "model": "maskctc",
            "model_conf": {"ctc_weight": 0.3},
        },
    ),
    Case(
        "asr_transducer",
        "frontend",
        {
            **TOKEN_LIST,
            "encoder_conf": {
                "input_conf": {"block_type": "conv2d", "conv_size": 8},
                "body_conf": [
                    {
                        "block_type": "conformer",
                        "hidden_size": 16,
                        "linear_size": 16,
                        "heads": 2,
                        "conv_mod_kernel_size": 3,
                    }
                ],
            },
            "decoder_conf": {"embed_size": 8, "hidden_size": 8, "num_layers": 1},
            "joint_network_conf": {"joint_space_size": 8},
        },
    ),
    Case(
        "slu", "frontend", {**ENCODER, **DECODER, **TOKEN_LIST, "model_conf": {"ctc_weight": 0.3}}
    ),
    Case("slu", "encoder", {**DECODER, **TOKEN_LIST, "model_conf": {"ctc_weight": 0.3}}),
    Case(
        "st",
        "frontend",
        {
            **ENCODER,
            **DECODER,
            **TOKEN_LIST,
            "src_token_list": TOKENS,
            "model_conf": {"asr_weight": 0.3, "mtlalpha": 1.0},
        },
        (SPEECH, TEXT, "text,src_text,text_int"),
    ),
    Case(
        "s2t",
        "frontend",
        {
            **ENCODER,
            **DECODER,
            "token_list": SYMBOLS,
            "use_preprocessor": False,
            "model_conf": {"ctc_weight": 0.3},
        },
        (SPEECH, TEXT, "text,text_prev,text_int", "text,text_ctc,text_int"),
    ),
    Case(
        "cls",
        "frontend",
        {**ENCODER, **TOKEN_LIST, "decoder": "linear", "decoder_conf": {}},
        (SPEECH, "label,label,text_int"),
    ),
    Case(
        "cls",
        "encoder",
        {**TOKEN_LIST, "decoder": "linear", "decoder_conf": {}},
        (SPEECH, "label,label,text_int"),
    ),
    Case(
        "diar",
        "frontend",
        {
            **ENCODER,
            "num_spk": 2,
            "label_aggregator_conf": {"win_length": 400, "hop_length": 320},
        },
        (SPEECH, "spk_labels.scp,spk_labels,npy"),
    ),
    Case(
        "enh_s2t",
        "frontend",
        {
            "enh_encoder": "stft",
            "enh_encoder_conf": {"n_fft": 64, "hop_length": 32},
            "enh_decoder": "stft",
            "enh_decoder_conf": {"n_fft": 64, "hop_length": 32},
            "enh_separator": "rnn",
            "enh_separator_conf": {"num_spk": 1, "layer": 1, "unit": 8},
            **{f"asr_{name}": value for name, value in (ENCODER | DECODER).items()},
            **TOKEN_LIST,
            "asr_model_conf": {"ctc_weight": 0.3},
            "model_conf": {"bypass_enh_prob": 0.0},
        },
        (SPEECH, "wav.scp,speech_ref1,sound", "text,text_spk1,text_int"),
    ),
    Case(
        "spk",
        "frontend",
        {
            "use_preprocessor": False,
            "encoder": "xvector",
            "encoder_conf": {"ndim": 16, "output_size": 16},
            "pooling": "mean",
            "projector": "xvector",
            "projector_conf": {"output_size": 8},
            "loss": "softmax",
            "spk_num": 2,
            "best_model_criterion": [["valid", "eer", "min"]],
        },
        (SPEECH, "speaker,spk_labels,text_int"),
        (
            "trial.scp,speech,npy",
            "trial2.scp,speech2,npy",
            "trial_label,spk_labels,text_int",
        ),
    ),
    Case(
        "asvspoof",
        "frontend",
        {**ENCODER, "decoder": "mean", "losses": [{"name": "binary_loss", "conf": {}}]},
        (SPEECH, "label,label,text_int"),
    ),
]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Corpus:
    """Audio and every kind of label."""
    directory = tmp_path_factory.mktemp("tasks")
    made = make_corpus(directory, [])
    names = utterances()
    write_table(directory / "label", {name: index % 2 for index, name in enumerate(names)})
    write_table(directory / "intent", {name: 2 + index % 2 for index, name in enumerate(names)})
    write_table(directory / "speaker", {name: index % 2 for index, name in enumerate(names)})
    trials = {}
    for name, length in zip(names, LENGTHS, strict=True):
        active = np.zeros((length, 2), dtype=np.float32)
        active[: length // 2, 0] = active[length // 3 :, 1] = 1
        np.save(directory / f"{name}.active.npy", active)
        np.save(directory / f"{name}.npy", np.random.default_rng(1).normal(0, 0.1, (2, 8000)))
        trials[f"{name}*{names[0]}"] = name
    write_table(
        directory / "spk_labels.scp", {name: directory / f"{name}.active.npy" for name in names}
    )
    for file, name in (("trial.scp", None), ("trial2.scp", names[0])):
        write_table(
            directory / file,
            {trial: directory / f"{name or first}.npy" for trial, first in trials.items()},
        )
    write_table(directory / "trial_label", {trial: index % 2 for index, trial in enumerate(trials)})
    return made


def options_of(case: Case, corpus: Corpus) -> dict[str, Any]:
    """Options of the pruning in the case's form."""
    options = prune_options(corpus, **case.options)
    if case.form == "encoder":
        conf = options.pop("frontend_conf")
        options |= {
            "frontend": None,
            "input_size": 1,
            "encoder": "hj_prune",
            "encoder_conf": {"upstream_conf": conf["frontend_conf"], "pruning": conf["pruning"]},
        }
    return options


def without_gates(case: Case, corpus: Corpus) -> dict[str, Any]:
    """The same as a fine-tuning, which takes its architecture from the compact model."""
    options = options_of(case, corpus)
    for name in ("frontend", "frontend_conf", "encoder", "encoder_conf", "input_size"):
        options.pop(name, None)
    return options | {"exclude_weight_decay": False, "max_epoch": 1}


def make_teacher(exp: Path, directory: Path) -> str:
    """The gated model without its gates, as a file of weights with its configuration."""
    directory.mkdir()
    config = yaml.safe_load((exp / "config.yaml").read_text())
    del plugin_options(config, exp)["pruning"]
    (directory / "config.yaml").write_text(yaml.safe_dump(config))
    state = {n: t for n, t in last_epoch(exp).items() if ".pruner." not in n}
    torch.save(state, directory / "teacher.pth")
    return str(directory / "teacher.pth")


def name_of(case: Case) -> str:
    """What the test is called."""
    details = [case.options.get(part, "") for part in ("encoder", "decoder")]
    return "-".join(filter(None, [case.task, case.form, *details]))


@pytest.mark.parametrize("case", CASES, ids=name_of)
def test_prune_compact_and_finetune(case: Case, corpus: Corpus, tmp_path: Path) -> None:
    data = Corpus(corpus.directory, list(case.files), list(case.valid))
    if case.valid:
        names = [
            line.split()[0] for line in (corpus.directory / "trial_label").read_text().splitlines()
        ]
        write_table(corpus.directory / "valid.shape", dict.fromkeys(names, 8000))
    else:
        write_table(corpus.directory / "valid.shape", dict(zip(utterances(), LENGTHS, strict=True)))
    exp = train(case.task, data, options_of(case, corpus), tmp_path / "prune")
    assert pruning_state(exp, "num_steps") == 4
    assert pruning_state(exp, "lambda1") < 0 < pruning_state(exp, "lambda2")
    assert pruning_state(exp, "log_alpha").std() > 0.02, "only the noise of the beginning"
    model = build_model(task_module(case.task), yaml.safe_load((exp / "config.yaml").read_text()))
    # A part that is a model itself, as in enh_s2t, does not add the constraint too.
    hooked = [m for m in model.modules() if isinstance(m, AbsESPnetModel) and m._forward_hooks]
    assert hooked == [model]
    reported = torch.load(exp / "checkpoint.pth", weights_only=False)["reporter"]["stats"][2]
    assert 0.2 < reported["train"]["target_sparsity"] <= 0.4

    finetune = without_gates(case, corpus)
    teacher = make_teacher(exp, tmp_path / "teacher")
    tokens = yaml.safe_load((exp / "config.yaml").read_text()).get("token_list")
    loaded = load_teacher(task_class(task_module(case.task)), teacher, tokens)
    attributes = [item for module in loaded.modules() for item in vars(module).items()]
    assert not [n for n, value in attributes if "error_calculator" in n and value is not None]
    finetune[f"{case.form}_conf"] = {"distillation": {"teacher": teacher}}
    compact(case.task, exp, tmp_path / "compact", finetune)
    summary = json.loads((tmp_path / "compact" / "summary.json").read_text())
    assert summary["max_abs_diff"] <= 1e-5
    assert summary["actual"]["macs"] <= 0.6 * summary["dense"]["macs"]

    final = train(
        case.task,
        data,
        yaml.safe_load((tmp_path / "compact" / "finetune.yaml").read_text()),
        tmp_path / "final",
        "--init_param",
        str(tmp_path / "compact" / "model.pth"),
    )
    assert (final / "1epoch.pth").is_file()
    reported = torch.load(final / "checkpoint.pth", weights_only=False)["reporter"]["stats"][1]
    # Pruning is what the teacher has been spared.
    assert 0.01 < reported["train"]["loss_hidden"] < 100
    assert ("loss_logits" in reported["train"]) == (case.task not in WITHOUT_OUTPUTS)


def test_the_guide_lists_what_was_run() -> None:
    rows = [line.split("|") for line in (ROOT / "egs2/TEMPLATE/README.md").read_text().splitlines()]
    listed = {
        (row[1].strip(), form.strip()) for row in rows if len(row) > 3 for form in row[2].split(",")
    }
    for case in CASES:
        assert (f"`{case.task}`", case.form) in listed
