"""Pruning without labels: distances against plain formulas, and what is learned of a teacher."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from models import padded_batch, random_encoder, random_pruner, settle, small_config

import espnet_hjprune as hj
from espnet_hjprune.errors import HJPruneError
from espnet_hjprune.model.distillation import DISTANCES, l1_cosine_loss
from espnet_hjprune.model.espnet_model import GatedModel, compact_model
from espnet_hjprune.model.unlabelled import StateTeaching, UnlabelledConfig
from espnet_hjprune.nn.config import EncoderConfig
from espnet_hjprune.pruning.config import PruningConfig


def test_absolute_distance_and_cosine_are_those_of_the_papers():
    generator = torch.Generator().manual_seed(0)
    own, goal = ([torch.randn(2, 5, 8, generator=generator) for _ in range(3)] for _ in range(2))
    inside = torch.arange(5) < torch.tensor([[5], [3]])
    keep = torch.tensor([1.0, 1, 0, 1, 1, 0, 1, 1])
    for kept in (None, keep):
        places = [0, 1, 3, 4, 6, 7] if kept is not None else list(range(8))
        expected = []
        for one, other in zip(own, goal, strict=True):
            for row, count in ((0, 5), (1, 3)):
                for frame in range(count):
                    a, b = one[row, frame, places].double(), other[row, frame, places].double()
                    cosine = a @ b / a.norm() / b.norm()
                    expected.append((a - b).abs().mean() - torch.sigmoid(cosine).log())
        found = l1_cosine_loss(own, goal, inside, kept)
        assert found.item() == pytest.approx(torch.stack(expected).mean().item(), rel=1e-5)


def saved_teacher(directory):
    """A dense model directory, and its upstream."""
    upstream = hj.SpeechUpstream(hj.UpstreamOptions(architecture=small_config()))
    upstream.encoder = random_encoder(small_config())
    hj.save(upstream, directory)
    return upstream


def student_of(directory):
    """An upstream that starts as the teacher."""
    source = hj.UpstreamOptions(upstream="hj_prune_local", path_or_url=str(directory))
    return hj.SpeechUpstream(source)


@pytest.mark.parametrize("projection", [False, True])
@pytest.mark.parametrize("distance", DISTANCES)
def test_a_model_begins_as_its_own_teacher(tmp_path, distance, projection):
    saved_teacher(tmp_path)
    student = student_of(tmp_path).eval()
    options = UnlabelledConfig("hj_prune_local", str(tmp_path), distance, None, projection)
    teaching = StateTeaching(student, options)
    wave, lengths = padded_batch([8000, 5000])
    student(wave, lengths)
    least = 0.0 if distance == "relative_l2" else -F.logsigmoid(torch.tensor(1.0)).item()
    assert teaching(wave, lengths).item() == pytest.approx(least, abs=1e-5)
    # What is pruned is farther away, and compaction changes nothing of that.
    settle(student.add_gates(PruningConfig(target_sparsity=0.5, ramp_steps=0)))
    student.eval()(wave, lengths)
    far = teaching(wave, lengths).item()
    assert far > least + 0.01
    smaller = hj.compact(student, scatter=False).upstream.eval()
    again = StateTeaching(smaller, options)
    smaller(wave, lengths)
    if distance == "relative_l2" and not projection:
        assert again(wave, lengths).item() == pytest.approx(far, rel=1e-4)
    else:
        assert again(wave, lengths).item() > least
    assert all("teacher" not in name for name in teaching.state_dict())


def test_learned_projections_see_all_features_of_the_teacher(tmp_path):
    teacher = saved_teacher(tmp_path).eval()
    student = student_of(tmp_path).eval()
    pruner = random_pruner(student.config, target_sparsity=0.5)
    student.pruner = pruner
    options = UnlabelledConfig("hj_prune_local", str(tmp_path), "relative_l2", [0, 3], True)
    teaching = StateTeaching(student, options)
    wave, lengths = padded_batch([8000])
    student(wave, lengths)
    loss = teaching(wave, lengths)
    with torch.no_grad():
        gates = pruner.evaluation_gates()
        own, _ = student.encoder(wave, lengths, gates, all_states=True)
        goals, _ = teacher.encoder(wave, lengths, all_states=True)
    shares = [
        (own[layer] - goals[layer]).square().sum() / goals[layer].square().sum() for layer in (0, 3)
    ]
    assert loss.item() == pytest.approx(torch.stack(shares).mean().item(), rel=1e-4)
    loss.backward()
    assert teaching.projections is not None
    assert all(p.grad is not None for p in teaching.projections.parameters())


def test_a_student_that_is_read_at_a_lower_layer(tmp_path):
    saved_teacher(tmp_path)
    source = hj.UpstreamOptions(upstream="hj_prune_local", path_or_url=str(tmp_path), layer=1)
    student = hj.SpeechUpstream(source).eval()
    options = UnlabelledConfig("hj_prune_local", str(tmp_path), projection=True)
    teaching = StateTeaching(student, options)
    wave, lengths = padded_batch([8000])
    student(wave, lengths)
    assert teaching(wave, lengths).item() == pytest.approx(0.0, abs=1e-6)
    assert teaching.projections is not None and len(teaching.projections) == 2
    with pytest.raises(HJPruneError, match=r"model_conf\.layers has 3"):
        StateTeaching(student, UnlabelledConfig("hj_prune_local", str(tmp_path), layers=[3]))
    with pytest.raises(HJPruneError, match=r"layers ends at 0, .* add 1 to model_conf\.layers"):
        StateTeaching(student, UnlabelledConfig("hj_prune_local", str(tmp_path), layers=[0]))


def test_projections_of_a_model_whose_output_is_scattered():
    torch.manual_seed(0)
    upstream = hj.SpeechUpstream(hj.UpstreamOptions(architecture=small_config())).eval()
    first = upstream.add_gates(PruningConfig(target_sparsity=0.4, ramp_steps=0))
    with torch.no_grad():
        first.gates.log_alpha.normal_(0, 3)
    settle(first)
    scattered = hj.compact(upstream.eval()).upstream.eval()
    assert scattered.config.output_positions is not None
    conf = {"architecture": scattered.config.to_dict()}
    pruning = {"target_sparsity": 0.3, "ramp_steps": 0}
    config = {
        "frontend": "hj_prune",
        "frontend_conf": {"frontend_conf": conf, "pruning": pruning},
        "model": "hj_prune_unlabelled",
    }
    pruner = scattered.add_gates(PruningConfig.from_dict(pruning))
    with torch.no_grad():
        pruner.gates.log_alpha.normal_(0, 3)
    settle(pruner)
    width = scattered.config.hidden_size
    state = {f"frontend.core.{name}": tensor for name, tensor in scattered.state_dict().items()}
    state["teaching.projections.0.weight"] = torch.arange(2.0 * width).view(2, width)
    model = GatedModel(config, state, "frontend.core", scattered.eval())
    result = compact_model(model, padded_batch([8000])[0], "ssl")
    own = EncoderConfig.from_dict(
        result.config["frontend_conf"]["frontend_conf"]["architecture"]
    ).dense_features
    before = scattered.config.dense_features
    expected = [before.index(feature) for feature in own]
    assert len(own) < width
    assert result.state["teaching.projections.0.weight"][0].tolist() == expected


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "model_conf.teacher is missing"),
        ({"teacher": "hj_prune_local", "distance": "cosine"}, "one of relative_l2, l1_cosine"),
        ({"teacher": "hj_prune_local", "projection": "some"}, "neither true nor false"),
        ({"teacher": "hj_prune_local", "logits": 1.0}, "logits"),
        ({"teacher": "hj_prune_local", "layers": 3}, "model_conf.layers is 3, not a list"),
        ({"teacher": "hj_prune_local", "layers": [-1]}, r"model_conf.layers is \[-1\], not a list"),
    ],
)
def test_wrong_options(values, message):
    with pytest.raises(HJPruneError, match=message):
        UnlabelledConfig.from_dict(values)
