"""Options of ESPnet's trainer together with gates: right, or refused with what to set instead."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from espnet_runs import (
    TOKENS,
    Corpus,
    attach_gates,
    build_model,
    compact,
    last_epoch,
    make_corpus,
    prune_options,
    pruning_state,
    task_module,
    train,
    training_model,
)
from models import attached, small_config
from test_espnet_plugin import RNN, batch, encoder_form, options

from espnet_hjprune.bin import compact as compact_command
from espnet_hjprune.errors import HJPruneError
from espnet_hjprune.espnet.losses import add_constraint, find_pruners
from espnet_hjprune.espnet.training_options import check_options
from espnet_hjprune.pruning.config import PruningConfig
from espnet_hjprune.pruning.noise import SharedNoise
from espnet_hjprune.pruning.pruner import Pruner


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Corpus:
    """Four utterances with tokens."""
    directory = tmp_path_factory.mktemp("corpus")
    return make_corpus(directory, ["wav.scp,speech,sound", "text,text,text_int"])


@pytest.fixture(scope="module")
def checkpoint(corpus) -> str:
    """Its upstream."""
    return str(corpus.directory / "upstream.pt")


@pytest.fixture(scope="module")
def asr():
    """The ASR task module with the plugin registered."""
    return task_module("asr")


def ctc_options(corpus, **changes):
    """Pruning a CTC model on the frontend."""
    common = {"token_list": TOKENS, "use_preprocessor": False, "model": "hj_prune"}
    return prune_options(corpus, **common, model_conf={"ctc_weight": 1.0}, encoder=None, **changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"freeze_param": ["frontend.upstream"]}, r"are frontend\.core\.encoder$"),
        ({"grad_noise": True}, "set grad_noise: false"),
        ({"train_dtype": "float16"}, "set train_dtype: float32 instead of float16"),
        ({"use_deepspeed": True}, "set use_deepspeed: false"),
        ({"sharded_ddp": True}, "set sharded_ddp: false"),
        ({"use_adapter": True}, "set use_adapter: false"),
        ({"ngpu": 2, "distributed": False}, "set multiprocessing_distributed: true"),
    ],
)
def test_options_that_would_train_something_else_are_refused(asr, checkpoint, changes, message):
    config = options(checkpoint, **changes)
    # Models with such options can be loaded; they cannot be trained.
    model = build_model(asr, config)
    with pytest.raises(HJPruneError, match=message):
        check_options(config, model)


def test_espnet_checks_the_options_before_training(corpus, tmp_path):
    with pytest.raises(HJPruneError, match="set grad_noise: false"):
        train("asr", corpus, ctc_options(corpus, grad_noise=True), tmp_path / "exp")
    assert not list((tmp_path / "exp").glob("*.pth"))


def test_spectral_masking_of_samples_is_refused(asr, checkpoint):
    masking = {"specaug": "specaug", "specaug_conf": {"time_mask_width_range": 10}}
    config = encoder_form(checkpoint) | masking
    with pytest.raises(HJPruneError, match="set specaug: null"):
        check_options(config, build_model(asr, config))


def test_training_with_frozen_or_half_gates_is_refused(asr, checkpoint):
    model = training_model(asr, options(checkpoint))
    model.frontend.requires_grad_(False)
    with pytest.raises(HJPruneError, match="freeze_param has frozen the gates"):
        check_options(options(checkpoint), model)
    with pytest.raises(HJPruneError, match="the gates are frozen"):
        model(**batch())
    model = training_model(asr, options(checkpoint)).bfloat16()
    with pytest.raises(HJPruneError, match="gates are not in float32"):
        model(**batch())


@pytest.mark.parametrize("name", ["hj_prune", "espnet"])
def test_the_constraint_does_not_depend_on_the_name_of_the_model(asr, checkpoint, name):
    model = training_model(asr, options(checkpoint, model=name))
    assert "loss_constraint" in model(**batch())[1]
    assert type(model) is asr.ESPnetASRModel


def test_two_upstreams_with_gates_are_refused(asr, checkpoint):
    model = build_model(asr, options(checkpoint))
    model.second = build_model(asr, options(checkpoint)).frontend
    with pytest.raises(HJPruneError, match="2 upstreams with gates"):
        add_constraint(model)


def test_gates_train_while_the_weights_are_frozen(corpus, tmp_path):
    frozen = "frontend.core.encoder"
    config = ctc_options(corpus, freeze_param=[frozen])
    exp = train("asr", corpus, config, tmp_path / "exp")
    state = last_epoch(exp)
    start = build_model(
        task_module("asr"), options(str(corpus.directory / "upstream.pt"))
    ).state_dict()
    weights = [name for name in state if name.startswith(frozen) and "mask" not in name]
    assert weights and all(torch.equal(state[name], start[name]) for name in weights)
    assert pruning_state(exp, "log_alpha").std() > 0.02
    assert pruning_state(exp, "lambda1") < 0


def test_accumulated_gradients_are_one_step(corpus, tmp_path):
    config = ctc_options(corpus, accum_grad=2, grad_clip=0.01)
    exp = train("asr", corpus, config, tmp_path / "exp")
    assert pruning_state(exp, "num_steps") == 2
    # The penalties of both batches add up to that of one; with Adam the step is the rate.
    assert pruning_state(exp, "log_alpha").std() > 0.02


def test_averages_are_compacted_when_all_their_epochs_are_on_target(corpus, tmp_path):
    config = ctc_options(
        corpus,
        max_epoch=3,
        keep_nbest_models=[2, 3],
        best_model_criterion=[["train", "target_sparsity", "max"]],
    )
    exp = train("asr", corpus, config, tmp_path / "exp")

    def run(name: str, output: Path) -> None:
        arguments = ["--train_config", exp / "config.yaml", "--model_file", exp / name]
        arguments += ["--output_dir", output, "--allow_off_target", "true"]
        compact_command.main([str(argument) for argument in arguments])

    # The target rises for three steps, and an epoch has two.
    with pytest.raises(HJPruneError, match="is an average over epochs of which some"):
        run("train.target_sparsity.ave_3best.pth", tmp_path / "three")
    assert not (tmp_path / "three").exists()
    run("train.target_sparsity.ave_2best.pth", tmp_path / "two")
    assert (tmp_path / "two" / "model.pth").is_file()


def test_features_normalised_by_statistics(corpus, tmp_path):
    """Stages 10 and 11 of asr.sh with feats_normalize global_mvn."""
    rnn = {name: value for name, value in RNN.items() if name != "model_conf"}
    config = ctc_options(corpus) | rnn | {"model_conf": {"ctc_weight": 0.3}}
    stats = tmp_path / "stats"
    train("asr", corpus, config | {"model": "espnet"}, stats, "--collect_stats", "true")
    options_ = ["--normalize", "global_mvn", "--normalize_conf"]
    options_ += [f"stats_file={stats}/train/feats_stats.npz"]
    exp = train("asr", corpus, config, tmp_path / "exp", *options_)
    compact("asr", exp, tmp_path / "compact")
    assert (tmp_path / "compact" / "model.pth").is_file()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_mixed_precision(asr, checkpoint, dtype):
    """Gates and constraint stay in float32; the task's gradient reaches them through the scaler."""
    model = training_model(asr, encoder_form(checkpoint))
    (pruner,) = find_pruners(model)

    def gradients(autocast: bool) -> tuple[dict[str, torch.Tensor], torch.Tensor, float]:
        torch.manual_seed(0)
        pruner.noise = SharedNoise()
        model.zero_grad()
        scale = 2.0**10 if autocast else 1.0
        with torch.autocast("cpu", dtype=dtype, enabled=autocast):
            loss, stats, _ = model(**batch())
        (loss * scale).backward()
        assert stats["sparsity"].dtype == torch.float32
        return stats, pruner.gates.log_alpha.grad / scale, loss.item()

    exact, expected, expected_loss = gradients(False)
    stats, actual, loss = gradients(True)
    assert loss == pytest.approx(expected_loss, rel=0.02)
    for name in ("sparsity", "target_sparsity", "loss_constraint", "macs"):
        assert torch.equal(stats[name], exact[name]), name
    assert actual.dtype == torch.float32 and actual.isfinite().all()
    assert torch.nn.functional.cosine_similarity(actual, expected, dim=0) > 0.98


def test_steps_that_the_scaler_skips_do_not_count(asr, checkpoint):
    model = build_model(asr, encoder_form(checkpoint)).train()
    (pruner,) = find_pruners(model)
    optimizer = attach_gates(model)
    scaler = torch.amp.GradScaler("cpu")
    for spoiled in (True, False):
        loss, _, _ = model(**batch())
        scaler.scale(loss).backward()
        if spoiled:
            model.ctc.ctc_lo.bias.grad.fill_(torch.inf)
        before = pruner.gates.log_alpha.detach().clone()
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
        moved = not torch.equal(before, pruner.gates.log_alpha)
        assert moved == (not spoiled)
        assert int(pruner.constraint.num_steps) == (0 if spoiled else 1)


def test_gates_do_not_depend_on_other_random_numbers():
    """The processes of a distributed training draw other dropout masks, but the same gates."""
    first, second = (attached(Pruner(small_config(), PruningConfig())) for _ in range(2))
    second.load_state_dict(first.state_dict())
    torch.manual_seed(3)
    samples = [first().ffn[0].clone() for _ in range(3)]
    torch.manual_seed(3)
    for expected in samples:
        torch.rand(17)
        assert torch.equal(second().ffn[0], expected)
    assert not torch.equal(samples[0], samples[1])
    torch.manual_seed(4)
    assert not torch.equal(first().ffn[0], samples[0])


def test_layers_that_nothing_reads_are_frozen(asr, checkpoint):
    """Distributed training without unused_parameters fails over weights without a gradient."""
    for layer in (0, 1, 3):
        config = options(checkpoint)
        config["frontend_conf"]["layer"] = layer
        model = training_model(asr, config)
        model(**batch())[0].backward()
        for name, parameter in model.named_parameters():
            assert (parameter.grad is not None) == parameter.requires_grad, (layer, name)


@pytest.mark.parametrize(
    ("selection", "wrapped", "refused"),
    [
        ("", False, True),
        ("", True, True),
        (":::ctc", False, True),
        (":ctc:ctc", False, False),
        (":::frontend", False, False),
    ],
)
def test_stock_weights_that_espnet_would_drop_are_refused(
    asr, checkpoint, tmp_path, selection, wrapped, refused
):
    state = {"frontend.upstream.upstream.model.x": torch.zeros(1), "ctc.x": torch.zeros(1)}
    torch.save({"module": state} if wrapped else state, tmp_path / "stock.pth")
    config = options(checkpoint, init_param=[f"{tmp_path}/stock.pth{selection}"])
    model = build_model(asr, config)
    check_options(config | {"ignore_init_mismatch": False}, model)
    config["ignore_init_mismatch"] = True
    if refused:
        with pytest.raises(HJPruneError, match="set ignore_init_mismatch: false"):
            check_options(config, model)
    else:
        check_options(config, model)


@pytest.mark.parametrize("init", ["chainer", "xavier_uniform"])
def test_initialisation_leaves_upstream_and_gates_alone(asr, checkpoint, init):
    config = options(checkpoint)
    expected = build_model(asr, config)
    (fresh,) = find_pruners(expected)
    model = build_model(asr, config | {"init": init})
    (pruner,) = find_pruners(model)
    assert (pruner.gates.log_alpha - fresh.gates.log_alpha).abs().max() < 0.2
    assert not pruner.constraint.lambda1.any()
    for name, tensor in expected.frontend.core.encoder.state_dict().items():
        assert torch.equal(model.frontend.core.encoder.state_dict()[name], tensor), name
