"""Exported models against the ones they were made of, in every format."""

from __future__ import annotations

import json

import onnxruntime
import pytest
import torch
import yaml
from models import family_config, padded_batch, random_encoder, random_pruner, small_config
from test_decoding import configuration, save_model, write_audio

from espnet_hjprune.bin import export as export_command
from espnet_hjprune.errors import HJPruneError
from espnet_hjprune.export.check import largest_difference, word_errors
from espnet_hjprune.export.graphs import QUANTIZATIONS, SUFFIXES, FeatureModel, export
from espnet_hjprune.inference.model import load_recogniser
from espnet_hjprune.inference.runtime import load_exported
from espnet_hjprune.model.upstream import SpeechUpstream
from espnet_hjprune.model.upstream_options import UpstreamOptions
from espnet_hjprune.nn.export_mode import plain_attention
from espnet_hjprune.pruning.slicing import compact_encoder


def feature_model(config, seed=0) -> FeatureModel:
    """A model of an encoder with random weights."""
    upstream = SpeechUpstream(UpstreamOptions(architecture=config))
    upstream.encoder = random_encoder(config, seed)
    return FeatureModel(upstream).eval()


def check(model, run, sizes, tolerance):
    """Compare outputs on valid frames of a padded batch."""
    waves, lengths = padded_batch(sizes, seed=3)
    with torch.no_grad():
        expected, frames = model(waves, lengths)
        found, found_frames = run(waves, lengths)
    assert torch.equal(frames, found_frames)
    inside = torch.arange(expected.shape[1]) < frames.unsqueeze(1)
    assert (expected - found)[inside].abs().max() <= tolerance


@pytest.mark.parametrize("form", SUFFIXES)
@pytest.mark.parametrize(
    ("family", "style"),
    [("wav2vec2", "base"), ("hubert", "large"), ("wavlm", "base"), ("data2vec", "base")],
)
def test_batch_and_time_are_dynamic(tmp_path, family, style, form):
    model = feature_model(family_config(family, style))
    file = tmp_path / f"model{SUFFIXES[form]}"
    export(model, file, form)
    run = load_exported(file)
    for sizes in ([20000, 4321, 900], [720], [30001] * 2, [8000, 7000, 6000, 5000]):
        check(model, run, sizes, 1e-4)


@pytest.mark.parametrize("form", SUFFIXES)
def test_models_with_uneven_and_empty_layers(tmp_path, form):
    encoder = random_encoder(small_config())
    gates = random_pruner(encoder.config, target_sparsity=0.8, spread=5.0).evaluation_gates()
    gates.head[0].zero_()
    gates.ffn[1].zero_()
    compact, _ = compact_encoder(encoder, gates)
    upstream = SpeechUpstream(UpstreamOptions(architecture=compact.config))
    upstream.encoder = compact
    model = FeatureModel(upstream).eval()
    file = tmp_path / f"model{SUFFIXES[form]}"
    export(model, file, form)
    check(model, load_exported(file), [9000, 5000], 1e-4)


@pytest.mark.parametrize(("form", "quantize"), [(f, q) for f in SUFFIXES for q in QUANTIZATIONS[f]])
def test_quantised_models_are_near_and_smaller(tmp_path, form, quantize):
    model = feature_model(small_config())
    sizes = {}
    for kind in (None, quantize):
        file = tmp_path / f"{kind}{SUFFIXES[form]}"
        export(model, file, form, kind)
        sizes[kind] = file.stat().st_size
    check(model, load_exported(file), [9000, 5000], 0.3)
    assert sizes[quantize] < 0.9 * sizes[None]


def test_plain_attention_is_the_fused_one():
    for family in ("wav2vec2", "wavlm"):
        model = feature_model(family_config(family))

        def plain(waves, lengths, model=model):
            with plain_attention():
                return model(waves, lengths)

        check(model, plain, [9000, 5000], 1e-5)


def test_the_command_writes_a_model_that_needs_onnx_runtime_only(tmp_path):
    save_model(tmp_path, "frontend")
    export_command.main(["--model_dir", str(tmp_path)])
    output = tmp_path / "export_onnx"
    report = json.loads((output / "export.json").read_text())
    assert report["max_abs_diff"] <= 1e-4
    tokens = (output / "tokens.txt").read_text().splitlines()
    assert tokens == configuration()["token_list"]
    session = onnxruntime.InferenceSession(output / "model.onnx")
    waves, lengths = padded_batch([5000, report["shortest_samples"]])
    found, frames = session.run(None, {"wave": waves.numpy(), "lengths": lengths.numpy()})
    assert found.shape == (2, frames[0], len(tokens)) and frames[1] == 2


@pytest.mark.parametrize("form", ["classifier", "preencoder"])
def test_other_heads(tmp_path, form):
    save_model(tmp_path, form)
    export_command.main(["--model_dir", str(tmp_path), "--format", "torchscript"])
    model = load_recogniser(tmp_path / "config.yaml", tmp_path / "model.pth")
    waves, lengths = padded_batch([9000, 5000])
    exported = load_exported(tmp_path / "export_torchscript/model.pt")
    with torch.no_grad():
        expected, found = model(waves, lengths), exported(waves, lengths)
    torch.testing.assert_close(found[0][:1], expected[0][:1], atol=1e-4, rtol=1e-4)


def test_word_errors_are_counted(tmp_path):
    save_model(tmp_path, "frontend")
    model = load_recogniser(tmp_path / "config.yaml", tmp_path / "model.pth")
    table = write_audio(tmp_path, "sound")
    names = [line.split()[0] for line in table.read_text().splitlines()]
    (tmp_path / "text").write_text("".join(f"{name} A B\n" for name in names))
    errors = word_errors(model, model, tmp_path)
    assert errors.utterances == len(names) and errors.before == errors.after > 0
    silent = word_errors(model, lambda w, n: _blanks(*model(w, n)), tmp_path)
    assert silent.after == 100
    (tmp_path / "text").write_text(f"{names[0]} A\n")
    with pytest.raises(HJPruneError, match="is not in its text"):
        word_errors(model, model, tmp_path)


def _blanks(log_probs, frames):
    """Log probabilities that are sure of the blank."""
    sure = torch.full_like(log_probs, -50.0)
    sure[..., 0] = 0.0
    return sure, frames


def test_a_broken_export_is_noticed():
    model = feature_model(small_config())

    def broken(waves, lengths):
        output, frames = model(waves, lengths)
        return output * float("nan"), frames

    with pytest.raises(HJPruneError, match="gives no numbers"):
        largest_difference(model, broken)
    assert largest_difference(model, model) == 0


@pytest.mark.parametrize("form", SUFFIXES)
def test_short_audio_in_an_exported_model(tmp_path, form):
    """Alone, in a batch, and in a data directory whose words are counted."""
    save_model(tmp_path, "frontend")
    sizes = [9000, 500, 400, 399, 1, 0]
    write_audio(tmp_path, "sound", sizes)
    (tmp_path / "text").write_text("".join(f"u{row} A B\n" for row in range(len(sizes))))
    command = ["--model_dir", str(tmp_path), "--format", form, "--data_dir", str(tmp_path)]
    export_command.main(command)
    output = tmp_path / f"export_{form}"
    report = json.loads((output / "export.json").read_text())
    assert report["max_abs_diff"] <= 1e-4 and report["word_errors"]["difference"] == 0
    model = load_recogniser(tmp_path / "config.yaml", tmp_path / "model.pth")
    run = load_exported(output / f"model{SUFFIXES[form]}")
    check(model, run, sizes, 1e-4)
    for size in sizes:
        check(model, run, [size], 1e-4)
    # What has no frame has no words either, whatever the model makes of its padding.
    short = tmp_path / "short"
    short.mkdir()
    write_audio(short, "sound", [399, 1, 0])
    (short / "text").write_text("u0 A B\nu1 A B\nu2 A B\n")
    errors = word_errors(model, run, short)
    assert (errors.before, errors.after) == (100, 100)


def test_case_of_ascii_letters_does_not_count(tmp_path):
    save_model(tmp_path, "frontend")
    write_audio(tmp_path, "sound", [9000, 5000])
    model = load_recogniser(tmp_path / "config.yaml", tmp_path / "model.pth")
    model.tokens = ["<blank>", "<unk>", "<space>", "a", "\u00c9", "\u00e9", "<sos/eos>"]

    def spells(*numbers):
        def run(wave, lengths):
            log_probs = torch.full((len(wave), 9, len(model.tokens)), -20.0)
            log_probs[:, :, 0] = -10.0
            log_probs[:, range(0, 2 * len(numbers), 2), list(numbers)] = 0.0
            return log_probs.log_softmax(-1), torch.full((len(wave),), 9)

        return run

    for text, expected in (
        ("A \u00c9", 0),
        ("A \u00e9", 50),
        ("a \u00c9", 0),
        ("\u00c1 \u00c9", 50),
    ):
        (tmp_path / "text").write_text(f"u0 {text}\nu1 {text}\n")
        assert word_errors(model, spells(3, 2, 4), tmp_path).after == expected


def test_other_files_are_not_replaced(tmp_path):
    save_model(tmp_path, "frontend")
    base = ["--model_dir", str(tmp_path), "--format", "torchscript", "--output_dir"]
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "file").touch()
    for output in (tmp_path, tmp_path.parent, tmp_path / "mine", tmp_path / "mine" / "file"):
        with pytest.raises(HJPruneError, match="holds other files"):
            export_command.main([*base, str(output)])
    for _ in range(2):
        export_command.main([*base, str(tmp_path / "new")])
    assert (tmp_path / "new" / "model.pt").is_file() and (tmp_path / "model.pth").is_file()


def test_what_cannot_be_exported_is_refused(tmp_path):
    save_model(tmp_path, "gated")
    base = ["--model_dir", str(tmp_path)]
    for extra, message in (
        ([], "the model has gates; compact it"),
        (["--format", "torch_export", "--quantize", "int8"], "does not go with --quantize int8"),
        (["--encoder_only", "--data_dir", "x"], "--encoder_only gives no words"),
        (["--model_file", "no.pth"], r"no\.pth does not exist"),
    ):
        with pytest.raises(HJPruneError, match=message):
            export_command.main([*base, *extra])
    assert not list(tmp_path.glob("export*"))
    changed = configuration(encoder="conformer")
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(changed))
    with pytest.raises(HJPruneError, match="encoder: conformer"):
        export_command.main(base)
    with pytest.raises(HJPruneError, match="is no exported model"):
        load_exported(tmp_path / "config.yaml")
