"""The unpruned model as a teacher: losses, what is compared, and trainings with it."""

from __future__ import annotations

import argparse
import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from espnet_runs import (
    TOKENS,
    Corpus,
    attach_gates,
    build_model,
    compact,
    last_epoch,
    make_corpus,
    prune_options,
    task_class,
    task_module,
    train,
    utterances,
    write_table,
)
from hypothesis import given
from hypothesis import strategies as st
from models import family_config
from test_drop_in import stock_model
from test_espnet_plugin import ATTENTION, CONFORMER, batch, checkpoint, options  # noqa: F401
from test_espnet_plugin import TOKENS as MODEL_TOKENS

from espnet_hjprune.errors import HJPruneError
from espnet_hjprune.espnet.losses import find_upstreams
from espnet_hjprune.espnet.teacher import add_teacher, load_teacher
from espnet_hjprune.model.distillation import hidden_loss, logits_loss
from espnet_hjprune.model.distillation_config import DistillationConfig
from espnet_hjprune.model.espnet_config import finetune_config
from espnet_hjprune.model.espnet_model import GatedModel, compact_model
from espnet_hjprune.upstream.random_checkpoint import save_random_checkpoint

# Trainings in which nothing is drawn at random, so that both models see the same.
STILL = {"hidden": 0.0, "attention": 0.0}
DECODER = {
    **ATTENTION,
    "decoder_conf": ATTENTION["decoder_conf"]
    | {"dropout_rate": 0.0, "positional_dropout_rate": 0.0}
    | {"self_attention_dropout_rate": 0.0, "src_attention_dropout_rate": 0.0},
}
CLASSIFIER = {"decoder": "linear_decoder", "model_conf": {"ctc_weight": 0.0}}
FORMS = {"ctc": {}, "decoder": DECODER, "classifier": CLASSIFIER}


# The losses


def draw_logits(seed: int, *shape: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator), torch.randn(shape, generator=generator)


@given(st.integers(0, 2**31), st.lists(st.integers(1, 6), min_size=1, max_size=4))
def test_hidden_loss_is_the_relative_squared_distance(seed, lengths):
    own, goal = draw_logits(seed, 3, len(lengths), 6, 5)
    keep = (torch.rand(5, generator=torch.Generator().manual_seed(seed)) > 0.4).float()
    inside = torch.arange(6) < torch.tensor(lengths).unsqueeze(1)
    shares = []
    for a, b in zip(own.double().numpy(), goal.double().numpy(), strict=True):
        distance = size = 0.0
        for utterance, length in enumerate(lengths):
            for frame in range(length):
                for feature in np.flatnonzero(keep.numpy()):
                    distance += (a - b)[utterance, frame, feature] ** 2
                    size += b[utterance, frame, feature] ** 2
        shares.append(distance / size if size else 0.0)
    loss = hidden_loss(list(own), list(goal), inside, keep)
    assert loss.item() == pytest.approx(np.mean(shares), rel=1e-5)


@given(
    st.integers(0, 2**31),
    st.lists(st.integers(1, 6), min_size=1, max_size=4),
    st.sampled_from([0.5, 1.0, 2.0]),
)
def test_logits_loss_is_the_divergence_by_utterance(seed, lengths, temperature):
    own, goal = draw_logits(seed, len(lengths), 6, 5)
    total = 0.0
    for utterance, length in enumerate(lengths):
        for frame in range(length):
            p, q = (np.exp(x[utterance, frame].double().numpy() / temperature) for x in (goal, own))
            p, q = p / p.sum(), q / q.sum()
            total += (p * np.log(p / q)).sum()
    loss = logits_loss(own, goal, torch.tensor(lengths), temperature)
    assert loss.item() == pytest.approx(total / len(lengths) * temperature**2, rel=1e-4, abs=1e-6)
    every = torch.full((len(lengths),), 6)
    single = logits_loss(own[:, 0], goal[:, 0])
    assert single.item() == pytest.approx(logits_loss(own[:, :1], goal[:, :1]).item())
    assert logits_loss(own, goal).item() == pytest.approx(logits_loss(own, goal, every).item())


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"hidden": -1}, "hidden is -1"),
        ({"hidden": 0, "logits": 0}, "both 0"),
        ({"temperature": 0}, "temperature is 0"),
        ({"layers": 3}, r"such as \[0, 6, 12\]"),
        ({"layers": []}, r"such as \[0, 6, 12\]"),
        ({"weight": 1}, "distillation has no option weight"),
        ({"hidden": "much"}, "hidden is 'much', which is no number"),
        ({"hidden": float("nan")}, "hidden is nan, which is no number"),
        ({"layers": [True]}, r"such as \[0, 6, 12\]"),
        ({"teacher": 3}, "teacher is 3, not the name of a file"),
    ],
)
def test_wrong_options_are_refused(values, message):
    with pytest.raises(HJPruneError, match=message):
        DistillationConfig.from_dict(values)


# Models and teachers


@pytest.fixture(scope="module")
def asr():
    """The ASR task module with the plugin registered."""
    return task_module("asr")


def plain(config: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """A configuration without gates and random numbers."""
    config = copy.deepcopy(config) | {"model": "espnet"} | changes
    conf = config["frontend_conf"]
    conf.pop("pruning", None)
    conf["dropout"] = STILL
    return config


def save_model(model: torch.nn.Module, config: dict[str, Any], directory: Path) -> str:
    """Write a model as a training of ESPnet does."""
    directory.mkdir(exist_ok=True)
    (directory / "config.yaml").write_text(yaml.safe_dump(config))
    torch.save(model.state_dict(), directory / "model.pth")
    return str(directory / "model.pth")


def make_teacher(asr, config: dict[str, Any], directory: Path) -> str:
    """A dense model whose weights are not those of the checkpoint, and its file."""
    torch.manual_seed(3)
    model = build_model(asr, config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return save_model(model, config, directory)


def taught(asr, config: dict[str, Any], teacher: str, weights: str | None = None, **distillation):
    """A student in training mode with its teacher."""
    config = copy.deepcopy(config)
    config["frontend_conf"]["distillation"] = {"teacher": teacher, **distillation}
    model = build_model(asr, config)
    if weights is not None:
        model.load_state_dict(torch.load(weights))
    attach_gates(model)
    add_teacher(task_class(asr), config, model)
    return model.train()


def inputs(form: str) -> dict[str, torch.Tensor]:
    """A batch with labels that fit the form."""
    made = batch()
    if form == "classifier":
        made |= {"text": torch.tensor([[3], [4]]), "text_lengths": torch.tensor([1, 1])}
    return made


@pytest.mark.parametrize("form", FORMS)
def test_the_teacher_itself_is_at_no_distance(asr, checkpoint, tmp_path, form):  # noqa: F811
    config = plain(options(checkpoint, **FORMS[form]))
    file = make_teacher(asr, config, tmp_path / "teacher")
    model = taught(asr, config, file, weights=file)
    loss, stats, _ = model(**inputs(form))
    assert stats["loss_hidden"].item() < 1e-10
    assert abs(stats["loss_logits"].item()) < 1e-4
    assert loss.item() == pytest.approx(stats["loss"].item(), rel=1e-5)


def states_of(model: torch.nn.Module, made: dict[str, torch.Tensor]) -> list[torch.Tensor]:
    """Hidden states, from the encoder itself."""
    (upstream,) = find_upstreams(model).values()
    speech, lengths = made["speech"], made["speech_lengths"]
    return upstream.encoder(speech, lengths, all_states=True)[0]


def outputs_of(model: torch.nn.Module, form: str, made: dict[str, torch.Tensor]):
    """Logits of a model and how many positions of each utterance count."""
    features, lengths = model.encode(made["speech"], made["speech_lengths"])
    if form == "ctc":
        return [(model.ctc.ctc_lo(features), lengths)]
    if form == "classifier":
        return [(model.decoder(features, lengths).unsqueeze(1), torch.tensor([1, 1]))]
    end = len(MODEL_TOKENS) - 1
    shifted = torch.cat([torch.full((2, 1), end), made["text"]], 1)
    decoded, _ = model.decoder(features, lengths, shifted, torch.tensor([4, 4]))
    return [(model.ctc.ctc_lo(features), lengths), (decoded, torch.tensor([4, 4]))]


@pytest.mark.parametrize("form", FORMS)
def test_losses_are_those_of_the_two_models(asr, checkpoint, tmp_path, form):  # noqa: F811
    config = plain(options(checkpoint, **FORMS[form]))
    file = make_teacher(asr, config, tmp_path / "teacher")
    model = taught(asr, config, file, hidden=3.0, logits=0.5, layers=[0, 2])
    made = inputs(form)
    loss, stats, _ = model(**made)
    teacher = build_model(asr, config)
    teacher.load_state_dict(torch.load(file))
    with torch.no_grad():
        pairs = zip(states_of(model, made), states_of(teacher, made), strict=True)
        frames = model.encode(made["speech"], made["speech_lengths"])[1].tolist()
        shares = [
            sum((own[n, :f] - goal[n, :f]).square().sum() for n, f in enumerate(frames))
            / sum(goal[n, :f].square().sum() for n, f in enumerate(frames))
            for own, goal in pairs
        ]
        expected = (shares[0] + shares[2]) / 2
        divergences = [
            sum(
                torch.distributions.kl_divergence(
                    torch.distributions.Categorical(logits=goal[n, :length]),
                    torch.distributions.Categorical(logits=own[n, :length]),
                ).sum()
                for n, length in enumerate(lengths.tolist())
            )
            / 2
            for (own, lengths), (goal, _) in zip(
                outputs_of(model, form, made), outputs_of(teacher, form, made), strict=True
            )
        ]
        divergence = sum(divergences) / len(divergences)
    assert stats["loss_hidden"].item() == pytest.approx(expected.item(), rel=1e-4)
    assert stats["loss_logits"].item() == pytest.approx(divergence.item(), rel=1e-4)
    total = stats["loss"] + 3.0 * expected + 0.5 * divergence
    assert loss.item() == pytest.approx(total.item(), rel=1e-4)


def test_gradients_reach_the_student_only_and_validation_is_left_alone(
    asr,
    checkpoint,  # noqa: F811
    tmp_path,
):
    config = plain(options(checkpoint))
    file = make_teacher(asr, config, tmp_path / "teacher")
    model = taught(asr, config, file)
    names = set(model.state_dict())
    without = build_model(asr, config)
    assert names == set(without.state_dict()), "the teacher is part of the model"
    model(**batch())[0].backward()
    grown = {name for name, p in model.named_parameters() if p.grad is not None}
    assert {"ctc.ctc_lo.weight", "frontend.core.encoder.feature_projection.linear.weight"} <= grown
    model.eval()
    loss, stats, _ = model(**batch())
    assert loss.item() == pytest.approx(stats["loss"].item())
    assert "loss_hidden" not in stats


def gated_and_compact(asr, config: dict[str, Any], file: str, reader: dict[str, Any]):
    """Student configurations before and after compaction, and their weights."""
    gated_config = copy.deepcopy(config) | reader | {"model": "hj_prune"}
    gated_config["frontend_conf"]["pruning"] = {"target_sparsity": 0.5, "ramp_steps": 0}
    gated = build_model(asr, gated_config)
    gated.load_state_dict(torch.load(file), strict=False)
    (upstream,) = find_upstreams(gated).values()
    torch.manual_seed(0)
    with torch.no_grad():
        upstream.pruner.gates.log_alpha.normal_(0, 3)
    result = compact_model(
        GatedModel(gated_config, dict(gated.state_dict()), "frontend.core", upstream.eval()),
        [torch.randn(9000) * 0.1],
        allow_off_target=True,
    )
    return gated_config, gated.state_dict(), result


@pytest.mark.parametrize("reader", [{}, CONFORMER], ids=["linear", "conformer"])
@pytest.mark.parametrize("style", ["base", "large"])
def test_a_compact_student_learns_what_the_gated_one_does(asr, tmp_path, reader, style):
    path = tmp_path / "upstream.pt"
    save_random_checkpoint(family_config("wav2vec2", style), "wav2vec2", path)
    config = plain(options(str(path), **reader))
    file = make_teacher(asr, config, tmp_path / "teacher")
    gated_config, gated_state, result = gated_and_compact(asr, config, file, reader)
    save_model(_Stated(gated_state), gated_config, tmp_path / "gated")
    save_model(_Stated(result.state), result.config, tmp_path / "compact")
    losses = []
    for name, made in (("gated", gated_config), ("compact", result.config)):
        model = taught(asr, made, file, weights=str(tmp_path / name / "model.pth"), logits=0)
        (upstream,) = find_upstreams(model).values()
        if upstream.pruner is not None:
            # The gates of the compact model instead of drawn ones.
            upstream.pruner.eval()
        losses.append(model(**batch())[1]["loss_hidden"].item())
    architecture = result.config["frontend_conf"]["frontend_conf"]["architecture"]
    assert len(architecture["hidden_features"]) == architecture["hidden_size"] < 64
    assert losses[0] > 1e-3
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)
    architecture["hidden_features"] = None
    with pytest.raises(HJPruneError, match=r"which \d+ of the 64 hidden .* compact it again"):
        taught(asr, result.config, file)
    taught(asr, result.config, file, hidden=0)


class _Stated(torch.nn.Module):
    """Something with the given weights."""

    def __init__(self, state: dict[str, torch.Tensor]) -> None:
        super().__init__()
        self.state = dict(state)

    def state_dict(self, *_: Any, **__: Any) -> dict[str, torch.Tensor]:
        """The weights."""
        return self.state


def test_a_teacher_of_the_stock_frontend(asr, tmp_path):
    path = tmp_path / "upstream.pt"
    save_random_checkpoint(family_config("wav2vec2"), "wav2vec2", path, spread=0.2)
    stock = stock_model(asr, "wav2vec2", path)
    config = options("", frontend="s3prl", model="espnet")
    config["frontend_conf"] = {
        "fs": "16k",
        "frontend_conf": {"upstream": "wav2vec2_local", "path_or_url": str(path)},
    }
    file = save_model(stock, config, tmp_path / "stock")
    teacher = load_teacher(task_class(asr), file, config["token_list"])
    made = batch()
    with torch.no_grad():
        expected, _ = stock.frontend(made["speech"], made["speech_lengths"])
        features, frames = teacher.frontend(made["speech"], made["speech_lengths"])
    for own, goal, length in zip(features, expected, frames.tolist(), strict=True):
        assert torch.allclose(own[:length], goal[:length], atol=1e-4)


def test_teachers_that_do_not_fit_are_refused(asr, checkpoint, tmp_path):  # noqa: F811
    config = plain(options(checkpoint))
    file = make_teacher(asr, config, tmp_path / "teacher")
    task = task_class(asr)
    with pytest.raises(HJPruneError, match=r"missing\.pth does not exist"):
        load_teacher(task, str(tmp_path / "missing.pth"))
    with pytest.raises(HJPruneError, match="has other tokens"):
        load_teacher(task, file, ["<blank>", "A"])
    gated = options(checkpoint)
    gated_file = save_model(build_model(asr, gated), gated, tmp_path / "gated")
    with pytest.raises(HJPruneError, match="has gates"):
        load_teacher(task, gated_file, config["token_list"])
    with pytest.raises(HJPruneError, match="does not hold the weights of the model that"):
        save_model(build_model(asr, gated), config, tmp_path / "mixed")
        load_teacher(task, str(tmp_path / "mixed" / "model.pth"), config["token_list"])
    with pytest.raises(HJPruneError, match=r"set distillation\.teacher"):
        taught(asr, config, "")
    with pytest.raises(HJPruneError, match="set multiprocessing_distributed: true"):
        taught(asr, config | {"ngpu": 2, "distributed": False}, file)
    with pytest.raises(HJPruneError, match="layers has 7, but the last layer that is read is 3"):
        taught(asr, config, file, layers=[7])
    lower = plain(options(checkpoint))
    lower["frontend_conf"]["layer"] = 1
    lower_file = make_teacher(asr, lower, tmp_path / "lower")
    with pytest.raises(HJPruneError, match="read at layer 1, the model at 3; set dist"):
        taught(asr, config, lower_file)
    with pytest.raises(HJPruneError, match="layers has 2, but the last layer that is read is 1"):
        taught(asr, config, lower_file, layers=[2])
    taught(asr, config, lower_file, layers=[0, 1])(**batch())
    smaller = tmp_path / "smaller.pt"
    save_random_checkpoint(family_config("wav2vec2"), "wav2vec2", smaller)
    wider = plain(options(str(smaller)))
    architecture = family_config("wav2vec2").to_dict()
    architecture |= {"heads": [4, 4], "ffn_sizes": [96, 96]}
    wider["frontend_conf"]["frontend_conf"] = {"architecture": architecture}
    with pytest.raises(HJPruneError, match="is not the model that the pruned one comes from"):
        taught(asr, wider, file)
    decoding = plain(options(checkpoint, **DECODER))
    model = taught(asr, decoding, file)
    with pytest.raises(HJPruneError, match=r"set distillation\.logits: 0"):
        model(**batch())


def test_outputs_that_are_no_distribution_are_refused(tmp_path, checkpoint):  # noqa: F811
    cls = task_module("cls")
    config = plain(options(checkpoint, decoder="linear", decoder_conf={}, **CONFORMER))
    config["model_conf"] = {"classification_type": "multi-label"}
    file = make_teacher(cls, config, tmp_path / "teacher")
    with pytest.raises(HJPruneError, match=r"multi-label .* set distillation\.logits: 0"):
        taught(cls, config, file)
    taught(cls, config, file, logits=0)


# Trainings


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Corpus:
    """Audio and tokens."""
    directory = tmp_path_factory.mktemp("distillation")
    made = make_corpus(directory, ["wav.scp,speech,sound", "text,text,text_int"])
    write_table(directory / "text", {name: "2 3 4" for name in utterances()})
    return made


CTC = {
    "token_list": TOKENS,
    "use_preprocessor": False,
    "model_conf": {"ctc_weight": 1.0},
    "encoder": None,
    "decoder": None,
    "specaug": None,
    "normalize": None,
}


def reported(exp: Path, epoch: int) -> dict[str, Any]:
    """Statistics of the training in an epoch."""
    return torch.load(exp / "checkpoint.pth", weights_only=False)["reporter"]["stats"][epoch]


@pytest.fixture(scope="module")
def finetuned(corpus, tmp_path_factory) -> Path:
    """A fine-tuned model."""
    base = prune_options(corpus, **CTC)
    del base["frontend_conf"]["pruning"]
    return train("asr", corpus, base, tmp_path_factory.mktemp("finetuned") / "exp")


def test_pruning_and_final_finetuning_are_taught(corpus, finetuned, tmp_path):
    teacher = str(finetuned / "valid.loss.best.pth")
    gated = prune_options(corpus, **CTC)
    gated["frontend_conf"]["distillation"] = {"hidden": 5}
    exp = train("asr", corpus, gated, tmp_path / "prune", "--init_param", teacher)
    stats = reported(exp, 2)
    assert stats["train"]["loss_hidden"] > 0 < stats["train"]["loss_logits"]
    assert "loss_hidden" not in stats["valid"]
    assert not [name for name in last_epoch(exp) if "teacher" in name]

    base = prune_options(corpus, **CTC)
    base["frontend_conf"] = {"distillation": {}}
    compact("asr", exp, tmp_path / "compact", base)
    model = yaml.safe_load((tmp_path / "compact" / "config.yaml").read_text())
    assert "distillation" not in model["frontend_conf"]
    finetune = yaml.safe_load((tmp_path / "compact" / "finetune.yaml").read_text())
    assert finetune["frontend_conf"]["distillation"] == {"teacher": teacher}
    start = str(tmp_path / "compact" / "model.pth")
    final = train("asr", corpus, finetune, tmp_path / "final", "--init_param", start)
    stats = reported(final, 2)
    assert stats["train"]["loss_hidden"] > 0 < stats["train"]["loss_logits"]
    assert reported(final, 2)["train"]["loss_hidden"] < reported(final, 1)["train"]["loss_hidden"]
    assert last_epoch(final).keys() == torch.load(start).keys()


def test_a_named_teacher_is_kept_and_without_one_none_is_added(corpus):
    compact_config = {
        "frontend": "hj_prune",
        "frontend_conf": {"frontend_conf": {"architecture": {}}},
    }
    for base, unpruned, expected in (
        ({"distillation": {"teacher": "a.pth"}}, "b.pth", {"teacher": "a.pth"}),
        ({"distillation": {"logits": 2}}, "b.pth", {"logits": 2, "teacher": "b.pth"}),
        ({}, "b.pth", None),
    ):
        made = finetune_config(compact_config, {"frontend_conf": base}, unpruned)
        assert made["frontend_conf"].get("distillation") == expected
    with pytest.raises(HJPruneError, match="distillation is True, but it has options"):
        finetune_config(compact_config, {"frontend_conf": {"distillation": True}}, "b.pth")


@pytest.mark.parametrize("gates", [True, False])
def test_lightning_asks_the_teacher_too(corpus, finetuned, tmp_path, gates):
    from espnet2.train.lightning_espnet_model import LitESPnetModel

    config = prune_options(corpus, **CTC)
    config["frontend_conf"]["distillation"] = {"teacher": str(finetuned / "valid.loss.best.pth")}
    if not gates:
        del config["frontend_conf"]["pruning"]
    defaults = yaml.safe_load((finetuned / "config.yaml").read_text())
    config = defaults | config | {"task": "asr", "lightning_conf": {}, "init_param": []}
    config |= {"scheduler": "linear_warmup_decay", "scheduler_conf": {"total_steps": 4}}
    config |= {"output_dir": str(tmp_path)}
    module = LitESPnetModel(argparse.Namespace(**config))
    module.configure_optimizers()
    text = {"text": torch.tensor([[2, 3, 4]]), "text_lengths": torch.tensor([3])}
    audio = {"speech": torch.randn(1, 9000) * 0.1, "speech_lengths": torch.tensor([9000])}
    _, stats, _ = module.model.train()(**audio, **text)
    assert stats["loss_hidden"] > 0 < stats["loss_logits"]
