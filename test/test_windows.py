"""Audio that is too long to be attended to at once: windows against masks and whole utterances."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from models import (
    FAMILIES,
    family_config,
    family_encoder,
    padded_batch,
    random_encoder,
    random_pruner,
    small_config,
)
from test_decoding import loaded, locations, save_model, texts_of, write_audio

from espnet_hjprune.bin import export as export_command
from espnet_hjprune.errors import HJPruneError
from espnet_hjprune.export import check
from espnet_hjprune.export.check import word_errors
from espnet_hjprune.inference.audio import read_samples
from espnet_hjprune.inference.batches import make_batches, make_padded_batches
from espnet_hjprune.inference.config import DecodeConfig
from espnet_hjprune.inference.decode import Decoder, search
from espnet_hjprune.inference.model import load_recogniser
from espnet_hjprune.inference.runtime import load_exported
from espnet_hjprune.inference.windows import FrameGrid, in_windows, longest_whole, make_windows
from espnet_hjprune.nn import feature_extractor
from espnet_hjprune.nn.gate_values import NO_GATES
from espnet_hjprune.nn.windows import Windows

GRID = FrameGrid.of(small_config())
# One second, of which a window shares 0.2 s with the next.
SHORT = DecodeConfig(window_seconds=1.0, overlap_seconds=0.2)


@given(st.integers(2, 60), st.data())
def test_every_frame_is_kept_once_in_its_context(size, data):
    windows = Windows(size, data.draw(st.integers(0, size - 1)))
    frames = data.draw(st.integers(1, 300))
    found = windows.cover(frames)
    assert [t for w in found for t in range(w.begin, w.end)] == list(range(frames))
    for window in found:
        assert 0 <= window.start <= window.begin < window.end <= window.stop <= frames
        assert window.stop - window.start == min(size, frames)
        before, after = window.begin - window.start, window.stop - window.end
        assert window.start == 0 or before >= windows.overlap // 2
        assert window.stop == frames or after >= windows.overlap // 2
    assert len(found) <= max(1, -(-(frames - windows.overlap) // (size - windows.overlap)))


@given(st.integers(1, 200_000), st.integers(400, 100_000))
def test_frames_and_samples_of_the_grid_are_those_of_the_convolutions(samples, limit):
    config = small_config()
    assert GRID.frames(samples) == max(1, config.conv_lengths(samples)[-1])
    assert GRID.frames(GRID.samples(GRID.frames(limit))) == GRID.frames(limit)
    windows = Windows(GRID.frames(limit), 0)
    assert (samples <= longest_whole(windows, GRID)) == (GRID.frames(samples) <= windows.size)


@pytest.mark.parametrize("style", ["base", "large"])
@pytest.mark.parametrize("family", FAMILIES)
def test_windows_are_attention_to_the_frames_of_a_window(family, style):
    """Every frame gets what the Transformer gives it where a mask hides all outside its window."""
    encoder = family_encoder(family, style)
    windows = Windows(50, 12)
    wave, length = padded_batch([50_000])
    wave += 0.3
    for gates in (None, random_pruner(encoder.config).evaluation_gates()):
        with torch.inference_mode():
            found, frames = encoder(wave, length, gates, True, True, windows)
            (last,), _ = encoder(wave, length, gates, False, True, windows)
            whole, _ = encoder(wave, length, gates, True, True)
        assert torch.equal(last, found[-1]) and found[-1].shape[1] == int(frames) == 156
        transformer = encoder.transformer

        def hidden(x, mask, values, transformer=transformer):
            """Whole length, one window at a time."""
            results = [torch.empty_like(x) for _ in range(len(transformer.layers) + 1)]
            for window in windows.cover(x.shape[1]):
                seen = torch.zeros_like(mask)
                seen[..., window.start : window.stop] = True
                states = type(transformer).forward(transformer, x, mask & seen, values)
                for result, state in zip(results, states, strict=True):
                    result[:, window.begin : window.end] = state[:, window.begin : window.end]
            return results

        transformer.forward = hidden
        with torch.inference_mode():
            expected, _ = encoder(wave, length, gates, True, True)
        del transformer.forward
        for one, other in zip(found, expected, strict=True):
            torch.testing.assert_close(one, other, atol=2e-5, rtol=1e-4)
        # All before the first attention has read the whole utterance.
        torch.testing.assert_close(found[0], whole[0], atol=2e-5, rtol=1e-4)
        assert (found[-1] - whole[-1]).abs().max() > 1e-3


@pytest.mark.parametrize("family", ["wav2vec2", "wavlm", "hubert"])
def test_without_attention_windows_change_nothing(family):
    config = family_config(family)
    relative = config.relative and replace(config.relative, columns=[[]] * 3)
    encoder = random_encoder(replace(config, heads=[0] * 3, relative=relative))
    wave, length = padded_batch([50_000])
    with torch.inference_mode():
        (found,), _ = encoder(wave, length, None, False, True, Windows(40, 4))
        (expected,), _ = encoder(wave, length, None, False, True)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("style", ["base", "large"])
@pytest.mark.parametrize("size", [70_000, 400, 4000])
def test_all_layers_of_the_cnn_in_blocks_give_what_whole_layers_give(style, size, monkeypatch):
    extractor = random_encoder(small_config(style)).feature_extractor
    wave, lengths = padded_batch([size, size - 300 if size > 1000 else size])
    expected = extractor(wave, NO_GATES, lengths)
    with torch.no_grad():
        plain = extractor(wave, NO_GATES, lengths)
        monkeypatch.setattr(feature_extractor, "LONG_SAMPLES", size - 1)
        found = extractor(wave, NO_GATES, lengths)
    for row, length in enumerate(lengths.tolist()):
        frames = GRID.frames(length)
        for one in (plain, found):
            assert (one[row, :frames] - expected[row, :frames]).abs().max() <= 1e-5


@given(
    st.dictionaries(st.text("abcdef", min_size=1), st.integers(0, 60_000), min_size=1),
    st.sampled_from([20_000, 40_000, float("inf")]),
)
def test_utterances_that_are_read_in_windows_are_alone(counts, longest):
    for batches in (
        make_batches(counts, 10, longest),
        make_padded_batches(counts, 10, small_config(), longest),
    ):
        names = [name for batch in batches for name in batch.names]
        assert sorted(names) == sorted(counts)
        assert [counts[name] for name in names] == sorted(counts.values(), reverse=True)
        for batch in batches:
            if counts[batch.names[0]] > longest:
                assert len(batch.names) == 1 and batch.shape is None


@pytest.mark.parametrize("pads", [False, True])
@pytest.mark.parametrize("form", ["frontend", "encoder", "layers", "wavlm", "classifier", "first"])
def test_long_utterances_among_others(tmp_path, form, pads, caplog):
    sizes = [50_000, 9000, 16_399, 16_400, 0, 9100]
    wav_scp = locations(write_audio(tmp_path, "sound", sizes))
    # A table that says too little.
    (tmp_path / "utt2num_samples").write_text("u3 9050\n")
    model = loaded(tmp_path, form)
    windows = make_windows(SHORT, GRID)
    assert windows == Windows(50, 10)
    results = {}
    for name, options in (("whole", DecodeConfig(window_seconds=0)), ("windows", SHORT)):
        Decoder(model, options, pads=pads).decode(wav_scp, tmp_path, tmp_path / name)
        tables = (tmp_path / name / "1best_recog").iterdir()
        results[name] = {table.name: texts_of(table) for table in tables}
        warned = "2 of 6 utterances have more than 1 s and were read in windows" in caplog.text
        assert warned == (name == "windows")
    for name in ("u1", "u2", "u4", "u5"):
        for table in ("text", "token", "token_int"):
            assert results["windows"][table][name] == results["whole"][table][name]
        found, expected = (float(results[which]["score"][name][7:-1]) for which in results)
        assert found == pytest.approx(expected, abs=5e-4)
    for name in ("u0", "u3"):
        wave = read_samples(wav_scp[name], False)[None]
        lengths = torch.tensor([wave.shape[1]])
        with torch.inference_mode():
            outputs = model(wave, lengths, windows)
        ((best,),) = search(model, *outputs, lengths)
        assert results["windows"]["token_int"][name] == " ".join(map(str, best.tokens))
        score = float(results["windows"]["score"][name][7:-1])
        assert score == pytest.approx(best.score, abs=2e-3)


def test_options_of_windows():
    assert make_windows(DecodeConfig(), GRID) == Windows(3000, 500)
    assert make_windows(DecodeConfig(window_seconds=0), GRID) is None
    for values, message in (
        ({"window_seconds": -1.0}, "window_seconds is -1.0; it is 0 or more"),
        ({"overlap_seconds": 60.0}, "overlap_seconds is 60; it must be less than window_seconds"),
    ):
        with pytest.raises(HJPruneError, match=message):
            DecodeConfig(**values)


def test_exported_models_read_windows_of_the_wave(tmp_path):
    save_model(tmp_path, "layers")
    export_command.main(["--model_dir", str(tmp_path), "--format", "torchscript"])
    file = tmp_path / "export_torchscript/model.pt"
    run, plain = load_exported(file, options=SHORT), torch.jit.load(str(file))
    sizes = [50_000, 9000, 16_400]
    waves, lengths = padded_batch(sizes)
    found, frames = run(waves, lengths)
    # Two of the frames that are given for each of the CNN's.
    assert frames.tolist() == [2 * GRID.frames(size) for size in sizes]
    for row, size in enumerate(sizes):
        for window in Windows(50, 10).cover(GRID.frames(size)):
            samples = slice(320 * window.start, 320 * (window.stop - 1) + 400)
            wave = waves[row : row + 1, :size][:, samples]
            (expected,), _ = plain(wave, torch.tensor([wave.shape[1]]))
            kept = found[row, 2 * window.begin : 2 * window.end]
            cut = slice(2 * window.kept.start, 2 * window.kept.stop)
            torch.testing.assert_close(kept, expected[cut], atol=1e-5, rtol=1e-5)
    # By default these are no long utterances.
    assert torch.equal(load_exported(file)(waves, lengths)[0], plain(waves, lengths)[0])


def test_exported_classifiers_take_no_long_audio(tmp_path):
    model = loaded(tmp_path, "classifier")
    waves, lengths = padded_batch([50_000])
    run = in_windows(model, make_windows(SHORT, GRID), GRID)
    with pytest.raises(HJPruneError, match="audio of 3 s is too long for an exported classifier"):
        run(waves, lengths)


def test_words_of_long_audio_are_counted_in_windows(tmp_path, monkeypatch):
    save_model(tmp_path, "frontend")
    write_audio(tmp_path, "sound", [50_000, 9000])
    (tmp_path / "text").write_text("u0 A B\nu1 A B\n")
    model = load_recogniser(tmp_path / "config.yaml", tmp_path / "model.pth")
    monkeypatch.setattr(check, "DecodeConfig", lambda: SHORT)
    seen = []

    def exported(wave, lengths):
        seen.append(lengths.tolist())
        return model(wave, lengths)

    run = in_windows(exported, make_windows(SHORT, GRID), GRID)
    assert word_errors(model, run, tmp_path).utterances == 2
    assert max(n for lengths in seen for n in lengths) == GRID.samples(50)
