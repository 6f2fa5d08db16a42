"""The plugin inside real ESPnet models: registration, loss, optimiser groups, compaction."""

import argparse
import copy
import logging
import pickle
import re
import subprocess
import sys
from argparse import Namespace

import pytest
import torch
import yaml
from espnet_runs import (
    NO_OTHER_PARTS,
    attach_gates,
    build_model,
    task_class,
    task_module,
    training_model,
)
from models import family_config, padded_batch, small_config

import espnet_hjprune
from espnet_hjprune.bin import compact as compact_command
from espnet_hjprune.errors import HJPruneError
from espnet_hjprune.espnet import precision
from espnet_hjprune.espnet.frontend import HJPruneFrontend
from espnet_hjprune.espnet.initial_loss import report_initial_loss
from espnet_hjprune.espnet.losses import find_upstreams
from espnet_hjprune.espnet.tasks import after_build_optimizers
from espnet_hjprune.espnet.training_options import check_options
from espnet_hjprune.model.espnet_config import (
    DEFAULT_MODELS,
    TRAINING_PARTS,
    finetune_config,
    is_model_option,
)
from espnet_hjprune.model.espnet_model import GatedModel, compact_model
from espnet_hjprune.model.upstream import SpeechUpstream
from espnet_hjprune.pruning.noise import SharedNoise
from espnet_hjprune.pruning.optimizer import GATES, MULTIPLIERS
from espnet_hjprune.upstream.random_checkpoint import save_random_checkpoint

TOKENS = ["<blank>", "<unk>", "<space>", "A", "B", "C", "<sos/eos>"]
PRUNING = {"target_sparsity": 0.5, "ramp_steps": 0}


@pytest.fixture(scope="module")
def asr():
    """The ASR task module with the plugin registered."""
    return task_module("asr")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A small upstream in s3prl's format."""
    path = tmp_path_factory.mktemp("upstream") / "upstream.pt"
    save_random_checkpoint(small_config(), "wav2vec2", path)
    return str(path)


def options(checkpoint, **changes):
    """An ESPnet configuration for a CTC model on the frontend."""
    config = {
        "token_list": TOKENS,
        "input_size": None,
        "frontend": "hj_prune",
        "frontend_conf": {
            "fs": "16k",
            "frontend_conf": {"upstream": "wav2vec2_local", "path_or_url": checkpoint},
            "pruning": dict(PRUNING),
        },
        **NO_OTHER_PARTS,
        "model": "hj_prune",
        "model_conf": {"ctc_weight": 1.0},
        "init": None,
    }
    config.update(changes)
    return config


def encoder_form(checkpoint):
    """The same model with the plugin as the encoder."""
    config = options(checkpoint, frontend=None, input_size=1, encoder="hj_prune")
    conf = config["frontend_conf"]
    config["encoder_conf"] = {
        "upstream_conf": conf["frontend_conf"],
        "pruning": conf["pruning"],
    }
    config["frontend_conf"] = {}
    return config


CONFORMER = {
    "encoder": "conformer",
    "encoder_conf": {
        "output_size": 16,
        "attention_heads": 2,
        "linear_units": 16,
        "num_blocks": 1,
        "input_layer": "linear",
    },
}


# Other encoders on top, with an attention decoder and joint CTC.
ATTENTION = {
    "decoder": "transformer",
    "decoder_conf": {"attention_heads": 2, "linear_units": 16, "num_blocks": 1},
    "model_conf": {"ctc_weight": 0.3},
}
E_BRANCHFORMER = {
    "encoder": "e_branchformer",
    "encoder_conf": {
        "output_size": 16,
        "attention_heads": 2,
        "linear_units": 16,
        "cgmlp_linear_units": 32,
        "num_blocks": 1,
        "input_layer": "linear",
    },
    **ATTENTION,
}
RNN = {
    "encoder": "rnn",
    "encoder_conf": {"num_layers": 1, "hidden_size": 8, "output_size": 16, "subsample": None},
    **ATTENTION,
}


def batch():
    """Two utterances with three tokens each."""
    speech, lengths = padded_batch([9000, 7000])
    return {
        "speech": speech,
        "speech_lengths": lengths,
        "text": torch.tensor([[3, 4, 5], [5, 4, 3]]),
        "text_lengths": torch.tensor([3, 3]),
    }


def randomise_gates(model):
    """Give the gates a spread, as training does."""
    upstream = next(iter(find_upstreams(model).values()))
    torch.manual_seed(0)
    with torch.no_grad():
        upstream.pruner.gates.log_alpha.normal_(0, 3)
    return upstream


def test_loss_has_the_constraint_and_stats_report_it(asr, checkpoint):
    model = training_model(asr, options(checkpoint))
    upstream = next(iter(find_upstreams(model).values()))
    with torch.no_grad():
        upstream.pruner.constraint.lambda1.fill_(-10.0)
    loss, stats, _ = model(**batch())
    for name in ("sparsity", "target_sparsity", "lambda1", "lambda2", "macs", "loss_constraint"):
        assert name in stats
    assert loss.item() == pytest.approx(
        stats["loss"].item() + stats["loss_constraint"].item(), rel=1e-5
    )
    loss.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None or name.endswith("encoder.mask_embedding"), name
    model.eval()
    loss, stats, _ = model(**batch())
    assert loss.item() == pytest.approx(stats["loss"].item())
    assert stats["sparsity"].item() == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize("exclude", [False, True])
def test_a_task_puts_gates_and_multipliers_into_groups(asr, checkpoint, tmp_path, exclude):
    """Weights decay in the same way with gates as without."""
    groups = {}
    for gated in (False, True):
        config = options(checkpoint) | {"model": "espnet", "optim": "adamw", "sharded_ddp": False}
        config |= {"optim_conf": {"lr": 1e-4, "weight_decay": 0.1}, "output_dir": str(tmp_path)}
        config |= {"exclude_weight_decay": exclude, "exclude_weight_decay_conf": {}}
        if not gated:
            del config["frontend_conf"]["pruning"]
        model = build_model(asr, config)
        (optimizer,) = asr.ASRTask.build_optimizers(Namespace(**config), model)
        names = {id(parameter): name for name, parameter in model.named_parameters()}
        groups[gated] = {
            names[id(parameter)].replace("core.pruner.", ""): group
            for group in optimizer.param_groups
            for parameter in group["params"]
        }
    decay = {
        gated: {name: group["weight_decay"] for name, group in found.items()}
        for gated, found in groups.items()
    }
    gates, *multipliers = (
        groups[True][f"frontend.{name}"]
        for name in ("gates.log_alpha", "constraint.lambda1", "constraint.lambda2")
    )
    assert (gates["name"], gates["lr"], gates["weight_decay"]) == (GATES, 0.02, 0.0)
    assert not gates["maximize"]
    for group in multipliers:
        assert (group["name"], group["lr"], group["weight_decay"]) == (MULTIPLIERS, 0.02, 0.0)
        assert group["maximize"]
    own = {"frontend.gates.log_alpha", "frontend.constraint.lambda1", "frontend.constraint.lambda2"}
    assert {name: value for name, value in decay[True].items() if name not in own} == decay[False]
    assert (decay[True]["ctc.ctc_lo.bias"] == 0.0) == exclude


def test_clipping_is_left_to_the_weights(asr, checkpoint):
    model = training_model(asr, options(checkpoint))
    upstream = next(iter(find_upstreams(model).values()))
    with torch.no_grad():
        upstream.pruner.constraint.lambda1.fill_(-1000.0)
    model(**batch())[0].backward()
    gate_norm = upstream.pruner.gates.log_alpha.grad.norm()
    projection = model.get_submodule("frontend.core.encoder.feature_projection.linear")
    weight_norm = projection.weight.grad.norm()
    assert gate_norm < weight_norm


def test_scheduler_warms_up_decays_and_leaves_the_gates_alone(asr, checkpoint):
    from espnet2.tasks.abs_task import scheduler_classes

    optimizer = attach_gates(build_model(asr, options(checkpoint)))
    optimizer.param_groups[0]["lr"] = 1.0
    scheduler = scheduler_classes["linear_warmup_decay"](optimizer, warmup_steps=4, total_steps=12)
    rates = []
    for _ in range(12):
        rates.append(optimizer.param_groups[0]["lr"])
        pruning = [g["lr"] for g in optimizer.param_groups if "name" in g]
        assert set(pruning) == {0.02}
        optimizer.step()
        scheduler.step()
    assert rates[:4] == pytest.approx([0.25, 0.5, 0.75, 1.0])
    assert rates[4:] == pytest.approx([1.0 - i / 8 for i in range(8)])


def test_a_longer_training_goes_on_with_its_own_schedule(caplog):
    from espnet_hjprune.espnet.scheduler import LinearWarmupDecay

    def scheduler(total_steps):
        optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
        return optimizer, LinearWarmupDecay(optimizer, warmup_steps=2, total_steps=total_steps)

    def step(optimizer, schedule):
        used = optimizer.param_groups[0]["lr"]
        optimizer.step()
        schedule.step()
        return used

    short = scheduler(6)
    for _ in range(6):
        step(*short)
    assert short[0].param_groups[0]["lr"] == 0
    caplog.set_level("INFO")
    same, longer = scheduler(6), scheduler(12)
    for optimizer, schedule in (same, longer):
        optimizer.load_state_dict(short[0].state_dict())
        schedule.load_state_dict(short[1].state_dict())
    assert same[0].param_groups[0]["lr"] == 0
    assert [step(*longer) for _ in range(6)] == pytest.approx([i / 10 for i in range(6, 0, -1)])
    (said,) = (record.message for record in caplog.records if "steps in all" in record.message)
    assert said.startswith("The training has 12 steps in all, no longer 6; from step 6 on")


FORMS = [
    "frontend",
    "encoder",
    "conformer",
    "e_branchformer",
    "rnn",
    "classifier",
    "preencoder",
]


@pytest.mark.parametrize("form", FORMS)
def test_compaction_of_whole_models(asr, checkpoint, tmp_path, form):
    config = {
        "frontend": lambda: options(checkpoint),
        "encoder": lambda: encoder_form(checkpoint),
        "conformer": lambda: options(checkpoint, **CONFORMER),
        "e_branchformer": lambda: options(checkpoint, **E_BRANCHFORMER),
        "rnn": lambda: options(checkpoint, **RNN),
        "classifier": lambda: options(
            checkpoint, decoder="linear_decoder", model_conf={"ctc_weight": 0.0}
        ),
        "preencoder": lambda: options(
            checkpoint,
            preencoder="linear",
            preencoder_conf={"input_size": 64, "output_size": 12},
            **CONFORMER,
        ),
    }[form]()
    model = asr.ASRTask.build_model(Namespace(**config)).train()
    attach_gates(model)
    data = batch()
    if form == "classifier":
        data["text"], data["text_lengths"] = data["text"][:, :1], torch.tensor([1, 1])
    loss, _, _ = model(**data)
    loss.backward()
    upstream = randomise_gates(model.eval())
    assert upstream.pruner.gates.log_alpha.grad.abs().sum() > 0
    trained = tmp_path / "trained"
    trained.mkdir()
    torch.save(model.state_dict(), trained / "1epoch.pth")
    (trained / "config.yaml").write_text(yaml.safe_dump(config))
    base = tmp_path / "base.yaml"
    base.write_text("optim: adamw\nmax_epoch: 2\nmodel: espnet\n")
    out = tmp_path / "compact"
    arguments = ["--train_config", trained / "config.yaml", "--model_file", trained / "1epoch.pth"]
    arguments += ["--output_dir", out, "--finetune_config", base, "--allow_off_target", "true"]
    compact_command.main([str(argument) for argument in arguments])
    written = {p.name for p in out.iterdir()}
    assert written == {"config.yaml", "model.pth", "summary.json", "finetune.yaml"}
    summary = yaml.safe_load((out / "summary.json").read_text())
    assert summary["max_abs_diff"] <= 1e-5
    assert summary["sparsity"]["actual"] == pytest.approx(0.5, abs=0.005)

    compact_config = yaml.safe_load((out / "config.yaml").read_text())
    assert "wav2vec2_local" not in (out / "config.yaml").read_text()
    compact = build_model(asr, compact_config).eval()
    compact.load_state_dict(torch.load(out / "model.pth"))
    with torch.no_grad():
        expected, _ = model.encode(data["speech"], data["speech_lengths"])
        actual, _ = compact.encode(data["speech"], data["speech_lengths"])
    scattered = form in ("conformer", "e_branchformer", "rnn")
    if scattered or form == "preencoder":
        assert (expected - actual).abs().max() <= 1e-5
    if scattered:
        assert compact.frontend.output_size() == 64
    else:
        assert (
            find_upstreams(compact)[
                "encoder.core" if form == "encoder" else "frontend.core"
            ].output_size()
            == summary["layers"]["hidden"]
        )
    finetune = yaml.safe_load((out / "finetune.yaml").read_text())
    assert finetune["max_epoch"] == 2 and finetune["model"] == "espnet"
    if form == "frontend":
        encoder = espnet_hjprune.load(out)
        with torch.no_grad():
            states, frames = encoder(data["speech"], data["speech_lengths"])
        row = slice(0, int(frames[1]))
        assert (states[0][1, row] - actual[1, row]).abs().max() <= 1e-6


def test_a_compact_model_under_another_encoder_can_be_pruned_again(asr, checkpoint, tmp_path):
    """Its upstream scatters features to the full width, and still does after the second time."""
    config = options(checkpoint, **CONFORMER)
    for number in (1, 2):
        directory = tmp_path / str(number)
        directory.mkdir()
        model = asr.ASRTask.build_model(Namespace(**config)).eval()
        randomise_gates(model)
        torch.save(model.state_dict(), directory / "1epoch.pth")
        (directory / "config.yaml").write_text(yaml.safe_dump(config))
        arguments = ["--train_config", directory / "config.yaml", "--model_file"]
        arguments += [directory / "1epoch.pth", "--output_dir", directory / "out"]
        arguments += ["--allow_off_target", "true"]
        compact_command.main([str(argument) for argument in arguments])
        summary = yaml.safe_load((directory / "out" / "summary.json").read_text())
        assert summary["max_abs_diff"] <= 1e-5
        config = yaml.safe_load((directory / "out" / "config.yaml").read_text())
        architecture = config["frontend_conf"]["frontend_conf"]["architecture"]
        assert architecture["output_width"] == 64
        assert len(architecture["output_positions"]) == architecture["hidden_size"]
        config["model"] = "hj_prune"
        config["frontend_conf"]["pruning"] = dict(PRUNING)


def test_compact_models_load_without_s3prl_and_espnet(asr, checkpoint, tmp_path):
    config = options(checkpoint)
    model = asr.ASRTask.build_model(Namespace(**config))
    torch.save(model.state_dict(), tmp_path / "1epoch.pth")
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    arguments = ["--train_config", tmp_path / "config.yaml", "--model_file"]
    arguments += [tmp_path / "1epoch.pth", "--output_dir", tmp_path / "out"]
    arguments += ["--allow_off_target", "true"]
    compact_command.main([str(argument) for argument in arguments])
    code = (
        "import sys; sys.modules['s3prl'] = sys.modules['espnet2'] = None; "
        "import torch, espnet_hjprune; "
        f"encoder = espnet_hjprune.load({str(tmp_path / 'out')!r}); "
        "print(encoder(torch.randn(1, 8000), torch.tensor([8000]))[0][0].shape[1])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.stdout.strip() == "24", result.stderr


def test_saved_configuration_builds_without_the_checkpoint(asr, checkpoint):
    """ESPnet saves the configuration after building, with the architecture filled in."""
    config = Namespace(**options(checkpoint))
    model = asr.ASRTask.build_model(config)
    saved = yaml.safe_load(yaml.safe_dump(vars(config)))
    saved["frontend_conf"]["frontend_conf"]["path_or_url"] = "gone.pt"
    again = training_model(asr, saved)
    again.load_state_dict(model.state_dict())
    again(**batch())


@pytest.mark.parametrize(
    ("init_param", "refused"),
    [
        ([], True),
        (["model.pth"], False),
        (["model.pth:ctc:ctc"], True),
        (["model.pth:frontend:frontend"], False),
        (["model.pth:ctc:ctc", "model.pth:frontend.core:frontend.core"], False),
        (["model.pth:::frontend"], True),
        (["model.pth:::ctc"], False),
    ],
)
def test_training_from_random_weights_is_refused(
    asr, checkpoint, tmp_path, monkeypatch, init_param, refused
):
    monkeypatch.chdir(tmp_path)
    config = options(checkpoint)
    filled = Namespace(**copy.deepcopy(config))
    model = asr.ASRTask.build_model(filled)
    saved = vars(filled) | {"init_param": init_param, "output_dir": str(tmp_path)}
    model = build_model(asr, saved)
    if init_param:
        with pytest.raises(HJPruneError, match=r"does not exist|random weights"):
            check_options(saved, model)
    torch.save(model.state_dict(), "model.pth")
    if not refused:
        check_options(saved, model)
        return
    with pytest.raises(HJPruneError, match="random weights"):
        check_options(saved, model)
    check_options(saved | {"collect_stats": True}, model)
    (tmp_path / "checkpoint.pth").touch()
    check_options(saved | {"resume": True}, model)


STOCK = [
    {},
    {"layer": 1},
    {"layer": 0},
    {"multilayer_feature": True},
    {"frontend_conf": {"tile_factor": 3}},
    {"frontend_conf": {"normalize": True}, "multilayer_feature": True},
]


@pytest.mark.parametrize("changes", STOCK)
@pytest.mark.parametrize("family", ["wav2vec2", "wavlm"])
def test_options_mean_what_they_mean_to_espnets_s3prl_frontend(tmp_path, family, changes):
    """Switching a recipe is changing one word: the same options give the same features."""
    from espnet2.asr.frontend.s3prl import S3prlFrontend

    path = tmp_path / "upstream.pt"
    save_random_checkpoint(family_config(family), family, path, spread=0.2)
    conf = {"upstream": f"{family}_local", "path_or_url": str(path)}
    conf |= changes.get("frontend_conf", {})
    options = {"fs": "16k", **changes}
    theirs = S3prlFrontend(**{**options, "frontend_conf": dict(conf)}).eval()
    ours = HJPruneFrontend(**{**options, "frontend_conf": dict(conf)}).eval()
    if changes.get("multilayer_feature"):
        weights = torch.randn(theirs.featurizer.weights.shape)
        with torch.no_grad():
            theirs.featurizer.weights.copy_(weights)
            ours.core.layer_weights.copy_(weights)
    speech, lengths = padded_batch([16000, 12345])
    with torch.no_grad():
        expected, _ = theirs(speech, lengths)
        features, frames = ours(speech, lengths)
    assert ours.output_size() == theirs.output_size() == expected.shape[-1]
    for row, length in enumerate(frames.tolist()):
        assert (features[row, :length] - expected[row, :length]).abs().max() < 1e-4


@pytest.mark.parametrize("changes", [*STOCK[1:2], *STOCK[3:]])
@pytest.mark.parametrize("family", ["wavlm", "data2vec"])
def test_compaction_with_several_layers(asr, tmp_path, family, changes):
    checkpoint = tmp_path / "upstream.pt"
    save_random_checkpoint(family_config(family), family, checkpoint, spread=0.2)
    config = options(str(checkpoint))
    conf = config["frontend_conf"]
    conf["frontend_conf"]["upstream"] = f"{family}_local"
    conf["frontend_conf"] |= changes.get("frontend_conf", {})
    conf |= {key: value for key, value in changes.items() if key != "frontend_conf"}
    model = build_model(asr, config).eval()
    upstream = randomise_gates(model)
    waves = [torch.randn(9000) * 0.1, torch.randn(7000) * 0.1]
    gated = GatedModel(config, model.state_dict(), "frontend.core", upstream)
    compact = compact_model(gated, waves, allow_off_target=True)
    assert compact.summary["max_abs_diff"] <= 1e-5
    again = build_model(asr, compact.config).eval()
    again.load_state_dict(compact.state)
    assert compact.config["frontend_conf"].get("layer", -1) == changes.get("layer", -1)


def test_espnet_initialisation_leaves_the_upstream_alone(asr, checkpoint):
    plain = build_model(asr, options(checkpoint))
    initialised = build_model(asr, options(checkpoint, init="xavier_uniform"))
    prefix = "frontend.core.encoder."
    expected = {k: v for k, v in plain.state_dict().items() if k.startswith(prefix)}
    state = initialised.state_dict()
    assert expected and all(torch.equal(state[name], value) for name, value in expected.items())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"fs": 8000}, "fs is 8000"),
        ({"frontend_conf": {"upstreams": "x"}}, "no upstream option upstreams"),
        ({"frontend_conf": {}}, "needs the name"),
        ({"pruning": {"target_sparsity": 0.999}}, "cannot be met"),
        ({"masking": {"prob": 0.5}}, "masking has no option prob"),
        ({"dropout": 0.1}, "dropout is 0.1, but it has options"),
        ({"dropout": {"hidden": "some"}}, "dropout.hidden is 'some', which is no number"),
        ({"masking": {"time_prob": 2}}, "masking.time_prob is 2"),
        ({"pruning": {"gate_lr": "fast"}}, "pruning.gate_lr is 'fast', which is no number"),
        ({"layer": 9}, "layer 9 does not exist"),
        ({"frontend_conf": {"extra_conf": {"a": 1}}}, "remove extra_conf"),
        ({"layer": 1, "multilayer_feature": True}, "cannot be used together"),
    ],
)
def test_wrong_frontend_options_are_refused(asr, checkpoint, changes, message):
    config = options(checkpoint)
    config["frontend_conf"].update(changes)
    with pytest.raises(HJPruneError, match=message):
        build_model(asr, config)


def test_a_model_that_no_task_built_is_not_trained(asr, checkpoint):
    config = options(checkpoint)
    frontend = HJPruneFrontend(**config["frontend_conf"]).train()
    with pytest.raises(HJPruneError, match="no optimiser trains the gates"):
        frontend(*padded_batch([9000, 7000]))


def test_a_model_that_no_task_built_gets_the_constraint_with_its_optimiser(asr, checkpoint):
    """As where espnetez builds the model by a function of the user."""
    config = options(checkpoint, output_dir="exp", optim="adamw", optim_conf={}, sharded_ddp=False)
    config |= {"exclude_weight_decay": False, "exclude_weight_decay_conf": {}}
    model = build_model(asr, config)
    model._forward_hooks.clear()
    for _ in range(2):
        asr.ASRTask.build_optimizers(Namespace(**config), model)
    loss, stats, _ = model.train()(**batch())
    assert "loss_constraint" in stats and len(model._forward_hooks) == 1
    loss.backward()
    copied = pickle.loads(pickle.dumps(model))
    attach_gates(copied)
    with torch.no_grad():
        copied.frontend.core.pruner.constraint.lambda1.fill_(3.0)
    assert copied(**batch())[1]["lambda1"] == 3.0


def test_weights_that_a_user_has_loaded_are_weights(asr, checkpoint):
    filled = Namespace(**options(checkpoint))
    state = asr.ASRTask.build_model(filled).state_dict()
    model = build_model(asr, vars(filled))
    with pytest.raises(HJPruneError, match="random weights"):
        check_options(vars(filled), model)
    model.load_state_dict(state)
    check_options(vars(filled), model)


def test_a_constraint_without_gates_is_refused(asr, checkpoint):
    config = options(checkpoint)
    del config["frontend_conf"]["pruning"]
    model = build_model(asr, config)
    with pytest.raises(HJPruneError, match="needs pruning options"):
        check_options(config, model)
    config["frontend"], config["frontend_conf"] = "default", {}
    with pytest.raises(HJPruneError, match="needs a frontend or encoder hj_prune"):
        check_options(config, build_model(asr, config))


def test_unfinished_ramps_and_wrong_files_are_refused(asr, checkpoint, tmp_path):
    config = options(checkpoint)
    config["frontend_conf"]["pruning"]["ramp_steps"] = 5
    model = asr.ASRTask.build_model(Namespace(**config))
    torch.save(model.state_dict(), tmp_path / "1epoch.pth")
    torch.save({}, tmp_path / "empty.pth")
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    del config["frontend_conf"]["pruning"]
    (tmp_path / "plain.yaml").write_text(yaml.safe_dump(config))

    def run(config_name, model_name):
        arguments = ["--train_config", tmp_path / config_name, "--model_file"]
        arguments += [tmp_path / model_name, "--output_dir", tmp_path / "out"]
        compact_command.main([str(argument) for argument in arguments])

    for names, message in (
        (("config.yaml", "1epoch.pth"), "before the target finished rising"),
        (("config.yaml", "empty.pth"), "does not hold the weights"),
        (("config.yaml", "none.pth"), "none.pth does not exist"),
        (("none.yaml", "1epoch.pth"), "none.yaml does not exist"),
        (("plain.yaml", "1epoch.pth"), "has no pruning options"),
    ):
        with pytest.raises(HJPruneError, match=message):
            run(*names)
    assert not (tmp_path / "out").exists()


def test_finetune_config_takes_dropout_from_the_base():
    compact = {
        "frontend": "hj_prune",
        "frontend_conf": {"frontend_conf": {"architecture": {}}, "dropout": {"hidden": 0.3}},
        "model": "espnet",
    }
    base = {"frontend": "x", "frontend_conf": {"dropout": {"hidden": 0.1}}, "max_epoch": 3}
    merged = finetune_config(compact, base)
    assert merged["frontend_conf"]["dropout"] == {"hidden": 0.1}
    assert merged["frontend_conf"]["frontend_conf"] == {"architecture": {}}
    assert merged["max_epoch"] == 3 and merged["frontend"] == "hj_prune"


@pytest.mark.parametrize(
    "task", ["asr", "slu", "st", "s2t", "s2t_ctc", "spk", "diar", "enh_s2t", "mt"]
)
def test_options_of_the_model_are_those_that_the_task_lets_choose(task):
    module = task_module(task)
    config = task_class(module).get_default_config()
    choices = [choice.name for choice in task_class(module).class_choices_list]
    parts = {name for name in choices if not TRAINING_PARTS.fullmatch(name)}
    assert {name for name in choices if name not in parts} <= {
        "specaug",
        "diar_specaug",
        "preprocessor",
    }
    expected = parts | {f"{name}_conf" for name in parts}
    expected -= {"model_conf", "asr_model_conf", "st_model_conf", "diar_model_conf"}
    expected |= {"input_size", "ctc_conf", "joint_net_conf", "joint_network_conf", "encoder_conf"}
    found = {name for name in config if is_model_option(name, config)}
    assert found == expected & set(config)


@pytest.mark.parametrize(
    "task", ["asr", "slu", "st", "s2t", "s2t_ctc", "mt", "hubert", "cls", "lid"]
)
def test_plain_models_of_the_tasks(task):
    choices = getattr(task_module(task), "model_choices", None)
    if choices is not None and "hj_prune" in choices.classes:
        assert choices.default == DEFAULT_MODELS.get(task, "espnet")


SPAWN = """
import torch.multiprocessing as mp

def worker(queue):
    from espnet2.tasks.asr import frontend_choices
    queue.put(sorted(set(frontend_choices.classes) & {"hj_prune"}))

def main():
    context = mp.get_context("spawn")
    queue = context.SimpleQueue()
    process = context.Process(target=worker, args=(queue,))
    process.start()
    print(queue.get())
    process.join()
"""


def test_run_registers_also_in_spawned_processes(tmp_path):
    (tmp_path / "spawning.py").write_text(SPAWN)
    result = subprocess.run(
        [sys.executable, "-m", "espnet_hjprune.bin.run", "-m", "spawning"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert result.stdout.strip().endswith("['hj_prune']"), result.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [([], "usage"), (["-m"], "usage"), (["-m", "espnet2.bin.no_such"], "no module espnet2.bin")],
)
def test_run_explains_wrong_calls(arguments, message):
    result = subprocess.run(
        [sys.executable, "-m", "espnet_hjprune.bin.run", *arguments],
        capture_output=True,
        text=True,
    )
    assert result.returncode == 1
    assert result.stderr.startswith("error: ") and message in result.stderr


def test_what_is_seldom_needed_is_imported_on_use(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "import sys\n"
        "import espnet2.text.phoneme_tokenizer as tokenizer\n"
        "import espnet2.text.cleaner as cleaner\n"
        "assert 'nltk' not in sys.modules and 'inflect' not in sys.modules\n"
        "assert cleaner.TextCleaner('tacotron')('2 cats') == 'TWO CATS'\n"
        "assert tokenizer.g2p_en.G2p.__name__ == 'G2p'\n"
        "assert 'nltk' in sys.modules\n"
    )
    command = [sys.executable, "-m", "espnet_hjprune.bin.run", str(script)]
    subprocess.run(command, check=True)


def test_a_frontend_runs_in_the_mixed_precision_of_its_training(asr, checkpoint):
    """ESPnet turns autocast off around it; here a CPU stands in for a GPU."""
    model = training_model(asr, options(checkpoint))
    pruner = model.frontend.core.pruner
    dtypes: dict[str, torch.dtype] = {}
    layer = model.frontend.core.encoder.transformer.layers[0]
    for name, module in (("qkv", layer.attention.qkv), ("norm", layer.attention_norm)):
        module.register_forward_hook(lambda m, i, y, name=name: dtypes.update({name: y.dtype}))
    wave, lengths = padded_batch([8000, 6000])
    text, text_lengths = torch.tensor([[3, 4, 5], [3, 4, -1]]), torch.tensor([3, 2])
    losses, gradients = [], []
    for dtype in (None, torch.bfloat16):
        model.frontend.amp_dtype = dtype
        # The same gates and dropout in both.
        torch.manual_seed(0)
        pruner.noise = SharedNoise()
        model.zero_grad()
        loss, stats, _ = model(wave, lengths, text, text_lengths)
        loss.backward()
        losses.append(loss.item())
        gradients.append(pruner.gates.log_alpha.grad.clone())
        assert stats["loss_constraint"].dtype == torch.float32
    features, _ = model.frontend(wave, lengths)
    assert features.dtype == torch.float32
    assert dtypes["qkv"] == torch.bfloat16
    assert losses[1] == pytest.approx(losses[0], rel=0.05) and losses[1] != losses[0]
    assert gradients[1].dtype == torch.float32 and gradients[1].isfinite().all()
    cosine = torch.nn.functional.cosine_similarity(*gradients, dim=0)
    assert cosine > 0.95


def test_devices_with_matrix_units_change_the_precision(asr, checkpoint, monkeypatch):
    model = build_model(asr, options(checkpoint))
    for amx, expected in ((True, torch.bfloat16), (False, None)):
        monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda amx=amx: amx)
        precision.use_mixed_precision({"use_amp": True, "ngpu": 0}, model)
        assert model.frontend.amp_dtype is expected
        precision.use_mixed_precision({"use_amp": False, "ngpu": 1}, model)
        assert model.frontend.amp_dtype is None
    precision.use_mixed_precision({"use_amp": True, "ngpu": 1}, model)
    assert model.frontend.amp_dtype in (torch.bfloat16, torch.float16)


@pytest.mark.parametrize(("keep", "harms"), [(None, False), (0.5, True)])
def test_the_log_says_what_the_gates_do_to_the_first_loss(asr, checkpoint, caplog, keep, harms):
    config = options(checkpoint)
    if keep is not None:
        config["frontend_conf"]["pruning"]["initial_keep"] = keep
    # A CTC layer and gates for which half of the units matter; of random ones some do not care.
    torch.manual_seed(3)
    model = training_model(asr, config)
    model.frontend.refuses_short_audio = False
    ungated = copy.deepcopy(model).eval()
    ungated.frontend.core.pruner = None
    wave, lengths = padded_batch([8000, 6000])
    batch = {
        "speech": wave,
        "speech_lengths": lengths,
        "text": torch.tensor([[3, 4, 5], [3, 4, -1]]),
        "text_lengths": torch.tensor([3, 2]),
    }
    expected = ungated.forward(**batch)[0].item()
    report_initial_loss(model)
    before = torch.get_rng_state()
    with caplog.at_level(logging.INFO):
        model(**batch)
        after = torch.get_rng_state()
        model(**batch)
    lines = [r for r in caplog.records if r.message.startswith("Loss of the first batch")]
    assert len(lines) == 1 and model.training and model.frontend.core.pruner.training
    figure, drawn = re.findall(r": ([\d.]+) without gates, ([\d.]+) ", lines[0].message)[0]
    assert float(figure) == pytest.approx(expected, rel=1e-3)
    assert (abs(float(drawn) / expected - 1) > 0.05) == harms
    assert ("raise pruning.initial_keep" in lines[0].message) == harms
    # The random numbers of the training are not used up.
    torch.set_rng_state(before)
    model(**batch)
    assert torch.equal(torch.get_rng_state(), after)


@pytest.mark.parametrize(("compiles", "dry"), [(True, False), (True, True), (False, False)])
def test_trainings_compile_the_encoder_where_they_shall(
    asr, checkpoint, monkeypatch, compiles, dry
):
    config = options(checkpoint)
    config["frontend_conf"]["compile"] = compiles
    model = build_model(asr, config)
    done = []
    monkeypatch.setattr(SpeechUpstream, "compile_encoder", lambda self: done.append(self))
    args = argparse.Namespace(use_amp=False, ngpu=0, dry_run=dry)
    after_build_optimizers(
        asr.ASRTask, args, model, [torch.optim.AdamW(model.parameters(), lr=1e-3)]
    )
    assert done == ([model.frontend.core] if compiles and not dry else [])


@pytest.mark.parametrize("has_bfloat16", [True, False])
def test_gradients_are_scaled_in_float16_only(asr, checkpoint, monkeypatch, has_bfloat16):
    from espnet2.train import trainer

    monkeypatch.setattr(trainer, "GradScaler", stock := trainer.GradScaler)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: has_bfloat16)
    model = build_model(asr, options(checkpoint))
    precision.scale_gradients_in_float16({"use_amp": True, "ngpu": 0}, model)
    precision.scale_gradients_in_float16({"use_amp": False, "ngpu": 1}, model)
    precision.scale_gradients_in_float16({"use_amp": True, "ngpu": 1}, torch.nn.Linear(1, 1))
    assert trainer.GradScaler is stock
    precision.scale_gradients_in_float16({"use_amp": True, "ngpu": 1}, model)
    made = trainer.GradScaler.keywords["enabled"]
    assert made is not has_bfloat16
