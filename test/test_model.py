"""The Python interface: gates on an upstream, compaction, saving and loading."""

from __future__ import annotations

import copy

import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from models import family_config, padded_batch, settle, small_config

import espnet_hjprune as hj
from espnet_hjprune.model import compaction
from espnet_hjprune.model.model_dir import find_weights
from espnet_hjprune.pruning.config import PruningConfig
from espnet_hjprune.upstream.random_checkpoint import save_random_checkpoint


def pruned(
    target: float = 0.5, seed: int = 0, family: str = "wav2vec2", **options
) -> hj.SpeechUpstream:
    """An upstream whose gates have a spread, as training gives them, on its target."""
    torch.manual_seed(seed)
    upstream = hj.SpeechUpstream(hj.UpstreamOptions(architecture=family_config(family), **options))
    pruner = upstream.add_gates(PruningConfig(target_sparsity=target, ramp_steps=0))
    with torch.no_grad():
        pruner.gates.log_alpha.normal_(0, 3)
    settle(pruner)
    return upstream.eval()


@settings(max_examples=15, deadline=None)
@given(
    target=st.sampled_from([0.2, 0.5, 0.7]),
    seed=st.integers(0, 1000),
    options=st.sampled_from(
        [{}, {"layer": 1}, {"multilayer_feature": True}, {"tile_factor": 2}, {"normalize": True}]
    ),
)
def test_compact_upstreams_give_the_same_to_any_reader(target, seed, options):
    upstream = pruned(target, seed, **options)
    wave, lengths = padded_batch([9000, 5000])
    head = torch.nn.Linear(upstream.output_size(), 7)
    scattered, narrow = hj.compact(upstream), hj.compact(upstream, scatter=False)
    own = hj.sliced(head, narrow.kept)
    with torch.no_grad():
        expected, frames = upstream(wave, lengths)
        same, same_frames = scattered.upstream(wave, lengths)
        fewer, _ = narrow.upstream(wave, lengths)
    assert torch.equal(frames, same_frames)
    assert scattered.upstream.output_size() == upstream.output_size()
    assert narrow.upstream.output_size() == len(narrow.kept)
    for row, length in enumerate(frames.tolist()):
        assert (expected[row, :length] - same[row, :length]).abs().max() <= 1e-5
        difference = head(expected[row, :length]) - own(fewer[row, :length])
        assert difference.abs().max() <= 1e-5
    # On louder and longer noise; these features reach 6, where float32 has steps of 5e-7.
    assert scattered.summary["max_abs_diff"] <= 2e-5
    assert scattered.summary["sparsity"]["actual"] >= target
    assert upstream.pruner is not None and scattered.upstream.pruner is None


def test_a_training_upstream_is_compacted_and_stays_in_training():
    upstream = pruned().train()
    result = hj.compact(upstream)
    assert upstream.training and upstream.pruner.training and result.upstream.training
    assert not hj.compact(upstream.eval()).upstream.training
    with pytest.raises(hj.HJPruneError, match="the gates are no numbers"):
        upstream.pruner.gates.log_alpha.data[3] = float("nan")
        hj.compact(upstream)


def test_a_compact_upstream_is_pruned_again():
    once = hj.compact(pruned(0.3)).upstream
    settle(once.add_gates(PruningConfig(target_sparsity=0.3, ramp_steps=0)))
    twice = hj.compact(once.eval())
    assert twice.summary["dense"]["macs"] < hj.compact(pruned(0.2)).summary["actual"]["macs"]
    assert twice.upstream.output_size() == 64
    assert len(twice.kept) <= once.config.hidden_size


@pytest.mark.parametrize("part", ["weight", "nan"])
def test_a_compact_model_that_differs_is_refused(monkeypatch, part):
    slices = compaction.compact_encoder

    def wrong(*args, **kwargs):
        encoder, kept = slices(*args, **kwargs)
        with torch.no_grad():
            if part == "weight":
                encoder.feature_projection.linear.bias += 0.01
            else:
                encoder.feature_projection.linear.bias.fill_(float("nan"))
        return encoder, kept

    monkeypatch.setattr(compaction, "compact_encoder", wrong)
    with pytest.raises(hj.HJPruneError, match="differs from the gated one"):
        hj.compact(pruned())


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_gated_model_that_has_diverged_is_refused(value):
    upstream = pruned()
    with torch.no_grad():
        upstream.encoder.transformer.layers[-1].ffn_norm.bias.fill_(value)
    with pytest.raises(hj.HJPruneError, match="its training has diverged"):
        hj.compact(upstream)


def test_what_cannot_be_compacted_or_saved_is_refused(tmp_path):
    upstream = pruned()
    with pytest.raises(hj.HJPruneError, match="has gates already"):
        upstream.add_gates(PruningConfig())
    with pytest.raises(hj.HJPruneError, match="compact it before it is saved"):
        hj.save(upstream, tmp_path / "model")
    dense = hj.SpeechUpstream(hj.UpstreamOptions(architecture=small_config()))
    with pytest.raises(hj.HJPruneError, match="has no gates"):
        hj.compact(dense)
    rising = copy.deepcopy(dense)
    rising.add_gates(PruningConfig(ramp_steps=9))
    with pytest.raises(hj.HJPruneError, match="step 0, before the target finished rising"):
        hj.compact(rising)
    (tmp_path / "notes.txt").touch()
    with pytest.raises(hj.HJPruneError, match="holds other files"):
        hj.save(dense, tmp_path)
    with pytest.raises(hj.HJPruneError, match="needs the name"):
        hj.UpstreamOptions()


def test_models_are_loaded_as_they_were_saved(tmp_path):
    upstream = hj.compact(pruned()).upstream
    hj.save(upstream, tmp_path / "model")
    hj.save(upstream, tmp_path / "model")
    assert {file.name for file in tmp_path.iterdir()} == {"model"}
    encoder = hj.load(tmp_path / "model")
    assert encoder.config == upstream.config
    wave, lengths = padded_batch([8000])
    with torch.no_grad():
        assert torch.equal(encoder(wave, lengths)[0][-1], upstream(wave, lengths)[0])


@pytest.mark.parametrize(
    "options", [{"layer": 1}, {"multilayer_feature": True, "tile_factor": 2}, {"normalize": True}]
)
def test_saved_upstreams_are_fine_tuned_and_pruned_again(tmp_path, options):
    upstream = hj.compact(pruned(**options)).upstream
    if upstream.layer_weights is not None:
        upstream.layer_weights.data.normal_()
    hj.save(upstream, tmp_path)
    again = hj.load_upstream("hj_prune_local", str(tmp_path))
    wave, lengths = padded_batch([8000])
    with torch.no_grad():
        expected, frames = upstream(wave, lengths)
        features, again_frames = again(wave, lengths)
    assert torch.equal(features, expected) and torch.equal(frames, again_frames)
    settle(again.add_gates(PruningConfig(target_sparsity=0.2, ramp_steps=0)))
    assert hj.compact(again).summary["max_abs_diff"] <= 1e-5


def test_pruned_encoders_are_upstreams_of_other_models(tmp_path):
    upstream = hj.compact(pruned(multilayer_feature=True, tile_factor=2)).upstream
    hj.save(upstream, tmp_path)
    # What is read of the encoder is the other model's own affair.
    options = hj.UpstreamOptions(upstream="hj_prune_local", path_or_url=str(tmp_path), layer=1)
    other = hj.SpeechUpstream(options).eval()
    wave, lengths = padded_batch([8000, 5000])
    with torch.no_grad():
        states, frames = upstream.encoder(wave, lengths, all_states=True)
        features, other_frames = other(wave, lengths)
    assert torch.equal(features, states[1]) and torch.equal(frames, other_frames)
    assert other.has_weights
    with torch.no_grad():
        other.encoder.feature_projection.linear.weight.zero_()
    other.reload_pretrained_parameters()
    with torch.no_grad():
        assert torch.equal(other(wave, lengths)[0], features)
    settle(other.add_gates(PruningConfig(target_sparsity=0.2, ramp_steps=0)))
    again = hj.compact(other)
    assert again.summary["dense"]["params"] == sum(p.numel() for p in other.encoder.parameters())
    assert again.upstream.options.upstream is None


def test_the_best_weights_are_those_of_the_trainings_own_criterion(tmp_path):
    names = ["valid.acc.best.pth", "valid.loss.ave.pth", "train.loss.ave.pth"]
    for name in names:
        (tmp_path / name).touch()
    assert find_weights(tmp_path).name == "valid.acc.best.pth"
    for criterion, expected in (
        ([["train", "loss", "min"]], "train.loss.ave.pth"),
        ([["valid", "loss", "min"], ["train", "loss", "min"]], "valid.loss.ave.pth"),
        ([["valid", "wer", "min"]], "valid.acc.best.pth"),
    ):
        (tmp_path / "config.yaml").write_text(yaml.safe_dump({"best_model_criterion": criterion}))
        assert find_weights(tmp_path).name == expected
    (tmp_path / "model.pth").touch()
    assert find_weights(tmp_path).name == "model.pth"
    with pytest.raises(hj.HJPruneError, match="nor the best weights of a training"):
        find_weights(tmp_path / "none")


def test_directories_that_are_no_upstream(tmp_path):
    with pytest.raises(hj.HJPruneError, match="needs a model directory"):
        hj.SpeechUpstream(hj.UpstreamOptions(upstream="hj_prune_local"))
    options = hj.UpstreamOptions(upstream="hj_prune_local", path_or_url=str(tmp_path))
    with pytest.raises(hj.HJPruneError, match="is no model directory, as it has no config"):
        hj.SpeechUpstream(options)
    hj.save(hj.compact(pruned()).upstream, tmp_path)
    file = tmp_path / "config.yaml"
    config = yaml.safe_load(file.read_text())
    config["frontend_conf"]["pruning"] = {"target_sparsity": 0.4}
    file.write_text(yaml.safe_dump(config))
    with pytest.raises(hj.HJPruneError, match="holds a model with gates; compact it"):
        hj.SpeechUpstream(options)
    config["frontend_conf"] = {"frontend_conf": {"upstream": "wav2vec2_local"}}
    file.write_text(yaml.safe_dump(config))
    with pytest.raises(hj.HJPruneError, match="does not describe an architecture"):
        hj.SpeechUpstream(options)


def test_upstreams_by_name(tmp_path):
    save_random_checkpoint(small_config(), "wav2vec2", tmp_path / "upstream.pt", spread=0.2)
    upstream = hj.load_upstream("wav2vec2_local", str(tmp_path / "upstream.pt"))
    again = hj.load_upstream("wav2vec2_local", str(tmp_path / "upstream.pt"))
    for name, tensor in upstream.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name]), name
    before = torch.random.get_rng_state()
    first, second = (hj.random_upstream("wav2vec2_mini", seed=3) for _ in range(2))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert torch.equal(first.encoder.mask_embedding, second.encoder.mask_embedding)
    with pytest.raises(hj.HJPruneError, match="no architecture is called"):
        hj.random_upstream("wav2vec3")


def test_gates_of_a_model_on_another_device_go_there():
    upstream = hj.random_upstream("wav2vec2_mini").to("meta")
    pruner = upstream.add_gates(PruningConfig())
    assert pruner.gates.log_alpha.device == upstream.encoder.mask_embedding.device


def test_the_control_trains_without_gates_and_stays_dense():
    torch.manual_seed(0)
    upstream = hj.SpeechUpstream(hj.UpstreamOptions(architecture=small_config()))
    plain = copy.deepcopy(upstream)
    pruner = upstream.add_gates(PruningConfig(units=[], target_sparsity=0, ramp_steps=1))
    wave, lengths = padded_batch([9000, 5000])
    for model in (upstream, plain):
        torch.manual_seed(1)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
        if model is upstream:
            hj.attach(pruner, optimizer)
        for _ in range(3):
            features, _ = model(wave, lengths)
            loss = features.square().mean()
            if model is upstream:
                penalty, figures = pruner.regularise()
                assert penalty == 0 and figures["sparsity"] == 0
                loss = loss + penalty
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    upstream.eval()
    assert torch.equal(upstream(wave, lengths)[0], plain.eval()(wave, lengths)[0])
    result = hj.compact(upstream)
    assert result.summary["sparsity"]["actual"] == 0
    assert result.summary["actual"]["macs"] == result.summary["dense"]["macs"]
    assert result.summary["max_abs_diff"] <= 1e-5
