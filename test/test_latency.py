"""Latency as the criterion: timing encoders, what is fitted to that, and prunings that use it."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from models import FAMILIES, family_config, latency_table, random_pruner, small_config

from espnet_hjprune.benchmark import latency
from espnet_hjprune.bin.measure import main as measure
from espnet_hjprune.errors import HJPruneError
from espnet_hjprune.pruning.config import UNITS, PruningConfig
from espnet_hjprune.pruning.cost import config_counts
from espnet_hjprune.pruning.latency import (
    MODULES,
    LatencyTable,
    features,
    read_table,
    shipped_tables,
)
from espnet_hjprune.pruning.pruner import Pruner
from espnet_hjprune.upstream import architecture


def by_hand(table: LatencyTable, counts) -> float:
    """The seconds of an encoder, written out."""
    cnn, projection, hidden = (table.coefficients[name] for name in MODULES[:3])
    attention, ffn = table.coefficients["attention"], table.coefficients["ffn"]
    number = len(counts.conv)
    total = cnn[0]
    for layer, channels in enumerate(counts.conv):
        total += cnn[1 + layer] * channels
        if layer > 0:
            total += cnn[number + layer] * counts.conv[layer - 1] * channels
    last, d = counts.conv[-1], counts.hidden
    total += projection[0] + projection[1] * last + projection[2] * d + projection[3] * last * d
    total += hidden[0] + hidden[1] * d + hidden[2] * counts.positional_pairs
    for factors, units in ((attention, counts.head), (ffn, counts.ffn)):
        for count in units:
            total += factors[0] + factors[1] * d
            if count > 0:
                total += factors[2] + factors[3] * d + factors[4] * count + factors[5] * count * d
    return total


def test_the_seconds_of_an_encoder_by_hand():
    config = replace(
        architecture("wav2vec2_base"), heads=[*[12] * 11, 0], ffn_sizes=[0, *[99] * 11]
    )
    table = latency_table(config)
    counts = config_counts(config)
    assert table.cost(counts) == pytest.approx(by_hand(table, counts), rel=1e-12)


def test_whole_encoders_are_as_slow_as_the_next_step():
    config = small_config()
    table = latency_table(config, step=16)
    counts = config_counts(config)
    narrow = replace(
        counts, conv=[17] * 7, ffn=[0, 1, 96], hidden=50, ffn_layer=[0, 1, 1], head=[1, 2, 3]
    )
    wide = replace(narrow, conv=[32] * 7, ffn=[0, 16, 96], hidden=64)
    assert table.whole_cost(narrow) == table.whole_cost(wide) == float(table.cost(wide))
    assert table.cost(narrow) < table.cost(wide)


@settings(max_examples=30, deadline=None)
@given(
    target=st.floats(0.05, 0.7),
    spread=st.floats(0.1, 6.0),
    layers=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_the_target_is_met_and_widths_fill_their_steps(target, spread, layers, seed):
    config = architecture("wav2vec2_base")
    table = latency_table(config, seed, step=16)
    pruner = random_pruner(
        config,
        seed,
        spread,
        units=list(UNITS) if layers else ["conv", "head", "ffn", "hidden"],
        criterion="latency",
        latency_table=table.to_dict(),
        target_sparsity=target,
    )
    _, counts = pruner.kept_units()
    # The groups of the positional conv count as equally wide.
    counts = replace(counts, positional_pairs=counts.hidden**2 / 16)
    left = by_hand(table, counts) / by_hand(table, config_counts(config))
    assert left <= 1 - target + 1e-9
    # The largest step is a head, or 16 of the hidden size.
    assert left >= 1 - target - 0.06
    widths = [*counts.conv, *counts.ffn, counts.hidden]
    assert all(width % 16 == 0 for width in widths)


def test_the_constraint_pushes_gates_of_what_takes_long():
    config = architecture("wav2vec2_base")
    table = latency_table(config)
    # Only FFN units cost anything.
    free = {module: [0.0] * len(factors) for module, factors in table.coefficients.items()}
    free["ffn"][5] = 1e-9
    table = replace(table, coefficients=free)
    pruner = random_pruner(
        config, criterion="latency", latency_table=table.to_dict(), target_sparsity=0.3
    )
    pruner.expected_sparsity().sum().backward()
    gradient = pruner.gates.log_alpha.grad
    for group in pruner.gates.groups:
        pushed = bool((gradient[group.slice] != 0).any())
        assert pushed == (group.unit in ("ffn", "hidden"))


def made_up(probes: list[latency.Probe], table: LatencyTable) -> None:
    """Give encoders the times that a table says, and marks that take a tenth."""
    for probe in probes:
        found = {
            name: [1.1 * float(s) for s in v] for name, v in table.modules(probe.counts).items()
        }
        probe.intervals = [found] * 3
        probe.totals = [float(table.cost(probe.counts))] * 3


def test_the_fit_finds_what_times_were_made_of():
    config = small_config()
    table = latency_table(config)
    fitted, checked = latency.make_probes(config, 60, 1, 5, latency.Setting(seconds=1.0))
    made_up([*fitted, *checked], table)
    ours = latency.make_table(config, fitted, checked, 1, latency.Setting(), {})
    for probe in [*fitted, *checked]:
        # Counts that go together leave some coefficients open, but not the seconds.
        assert ours.cost(probe.counts) == pytest.approx(table.cost(probe.counts), rel=0.02)
    assert ours.check["median_error"] < 0.01 and ours.check["encoders"] == 5


@pytest.mark.parametrize("style", ["base", "large"])
@pytest.mark.parametrize("family", FAMILIES)
def test_encoders_of_all_families_are_timed_module_by_module(family, style):
    config = family_config(family, style)
    setting = latency.Setting(seconds=0.5, batch=2)
    fitted, checked = latency.make_probes(config, 9, 8, 1, setting)
    latency.time_probes([*fitted, *checked], 1, lambda: None)
    for probe in [*fitted, *checked]:
        seconds = probe.module_seconds()
        assert {name: len(of) for name, of in seconds.items()} == {
            name: len(rows) for name, rows in features(probe.counts).items()
        }
        assert all(value > 0 for of in seconds.values() for value in of)
    table = latency.make_table(config, fitted, checked, 8, setting, {})
    assert all(factor >= 0 for of in table.coefficients.values() for factor in of)
    assert table.cost(config_counts(config)) > 0


def test_probes_cover_all_widths():
    config = architecture("wav2vec2_base")
    found = list(latency.probe_configs(config, 40, 16))
    assert found[0] == config and len(found) == 40
    for sizes in (
        {probe.conv_layers[3].channels for probe in found},
        {probe.hidden_size for probe in found},
        {probe.ffn_sizes[5] for probe in found},
    ):
        assert len(sizes) >= latency.LEVELS
        assert all(size % 16 == 0 for size in sizes)
    assert {min(p.heads) for p in found} >= {0} and max(max(p.heads) for p in found) == 12
    # No two counts go together.
    columns = np.array([[*p.heads, *p.ffn_sizes, p.hidden_size] for p in found[1:]], dtype=float)
    correlation = np.corrcoef(columns.T) - np.eye(columns.shape[1])
    assert np.abs(correlation).max() < 0.7


def test_a_table_is_measured_and_pruned_with(tmp_path, capsys):
    path = tmp_path / "latency.json"
    options = "--upstream wav2vec2_mini --seconds 1 --threads 1 --step 8"
    options += " --probes 24 --checked 2 --rounds 1 --output"
    measure([*options.split(), str(path)])
    assert "predictions of 2 encoders are off by" in capsys.readouterr().out
    table = read_table(str(path))
    assert table.to_dict() == json.loads(path.read_text())
    assert (table.threads, table.step, table.dtype) == (1, 8, "float32")
    options = PruningConfig(
        criterion="latency", latency_table=str(path), target_sparsity=0.3, ramp_steps=0
    )
    pruner = Pruner(architecture("wav2vec2_mini"), options).eval()
    assert 0 <= float(pruner.regularise()[1]["sparsity"]) - 0.3 < 0.1


def test_the_saved_configuration_holds_the_table(tmp_path):
    from espnet_hjprune.espnet.tasks import found_options

    table = latency_table(small_config())
    (tmp_path / "latency.json").write_text(json.dumps(table.to_dict()))
    asked = {"latency_table": str(tmp_path / "latency.json"), "round_to": 1}
    pruner = Pruner(small_config(), options_with(asked["latency_table"]))
    assert found_options(pruner, asked) == {"latency_table": table.to_dict()}
    assert found_options(pruner, {"latency_table": table.to_dict()}) == {}


def test_shipped_tables_are_of_their_architecture():
    assert "wav2vec2_base_cpu2" in shipped_tables()
    for name in shipped_tables():
        table = read_table(name)
        table.check_fits(architecture(name.rpartition("_")[0]))
        assert table.check["encoders"] >= 20
        dense = table.cost(config_counts(architecture(name.rpartition("_")[0])))
        assert dense > 0


def options_with(table) -> PruningConfig:
    return PruningConfig(criterion="latency", latency_table=table, target_sparsity=0.3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"step": 0}, "step 0"),
        ({"coefficients": {}}, "lacks coefficients"),
        ({"coefficients": {"cnn": [-1.0]}}, "negative"),
        ({"coefficients": []}, "lacks coefficients"),
        ({"coefficients": dict.fromkeys(MODULES, 1.0)}, "lacks coefficients"),
        ({"coefficients": {name: [1.0] for name in MODULES}}, "has 1 coefficients of cnn, not 14"),
        ({"more": 1}, "no option more"),
    ],
)
def test_broken_tables_are_refused(change, message):
    values = latency_table(small_config()).to_dict() | change
    with pytest.raises(HJPruneError, match=message):
        Pruner(small_config(), options_with(values))


def test_tables_that_are_not_there_or_of_another_architecture_are_refused(tmp_path):
    with pytest.raises(HJPruneError, match=r"cannot be read .* hjprune measure"):
        Pruner(small_config(), options_with(str(tmp_path / "none.json")))
    (tmp_path / "text.json").write_text("seconds")
    with pytest.raises(HJPruneError, match="no JSON file"):
        Pruner(small_config(), options_with(str(tmp_path / "text.json")))
    other = latency_table(small_config("large")).to_dict()
    with pytest.raises(HJPruneError, match=r"another architecture .*extractor_norm.*differ"):
        Pruner(small_config(), options_with(other))
    with pytest.raises(HJPruneError, match=r"goes with pruning\.criterion latency"):
        PruningConfig(criterion="latency")
    with pytest.raises(HJPruneError, match=r"goes with pruning\.criterion latency"):
        PruningConfig(latency_table="wav2vec2_base_cpu2")


def test_targets_that_open_layers_make_impossible_are_refused():
    """Without gates of their own layers are expected to be open, and take their time."""
    config = small_config()
    table = latency_table(config).to_dict()
    inside = PruningConfig(
        units=["head", "ffn"], criterion="latency", latency_table=table, target_sparsity=0.1
    )
    pruner = Pruner(config, inside)
    with torch.no_grad():
        pruner.gates.log_alpha.fill_(-20.0)
    most = float(pruner.expected_sparsity().detach())
    Pruner(config, replace(inside, target_sparsity=most - 1e-3))
    with pytest.raises(HJPruneError, match="cannot be met"):
        Pruner(config, replace(inside, target_sparsity=most + 1e-3))


def test_the_lone_gates_of_whole_layers_take_their_whole_time():
    """Closing a layer saves what the table says a layer costs."""
    config = small_config()
    table = latency_table(config)
    pruner = random_pruner(
        config,
        units=["attention_layer", "ffn_layer"],
        criterion="latency",
        latency_table=table.to_dict(),
        target_sparsity=0.1,
    )
    group = pruner.gates.groups[0]
    with torch.no_grad():
        pruner.gates.log_alpha.fill_(20.0)
        pruner.gates.log_alpha[group.start] = -20.0
    counts = config_counts(config)
    closed = replace(counts, head=[0, *counts.head[1:]])
    saved = 1 - by_hand(table, closed) / by_hand(table, counts)
    assert float(pruner.expected_sparsity().detach()) == pytest.approx(saved, rel=1e-4)
