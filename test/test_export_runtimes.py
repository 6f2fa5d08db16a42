"""Models for sherpa-onnx and onnx-asr, read by these packages."""

from __future__ import annotations

import json

import numpy as np
import onnx_asr
import onnxruntime
import pytest
import torch
from models import padded_batch, random_encoder, random_pruner, small_config
from test_export_huggingface import TOKENS, recogniser, save_espnet

from espnet_hjprune.bin import export as export_command
from espnet_hjprune.errors import HJPruneError
from espnet_hjprune.export.runtimes import RUNTIMES, export_for_runtime, vocabulary
from espnet_hjprune.inference.best_path import best_path_search
from espnet_hjprune.pruning.slicing import compact_encoder

SIZES = [16000, 9000, 23456, 12345]


def pruned(style: str, **options):
    """A CTC model on a compact encoder."""
    encoder = random_encoder(small_config(style))
    gates = random_pruner(encoder.config, target_sparsity=0.5).evaluation_gates()
    return recogniser(compact_encoder(encoder, gates)[0], **options)


def expected_texts(model, waves, lengths):
    """Words of the best path of every utterance alone."""
    texts = []
    for wave, length in zip(waves, lengths, strict=True):
        log_probs, frames = model(wave[None, :length], length[None])
        (best,) = best_path_search(log_probs, frames)
        tokens = [TOKENS[number].replace("<space>", " ") for number in best.tokens]
        texts.append("".join(tokens).split())
    return texts


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A model in ESPnet's form, and the directories that the command makes of it."""
    directory = tmp_path_factory.mktemp("model")
    model = pruned("base", tile_factor=2)
    save_espnet(model, directory)
    for runtime in RUNTIMES:
        export_command.main(["--model_dir", str(directory), "--runtime", runtime])
    return model, directory


def test_sherpa_onnx_recognises_the_same(tmp_path, caplog):
    import sherpa_onnx

    # It scales audio to unit variance itself, as these models do.
    model = pruned("large")
    file = export_for_runtime(model, tmp_path, "sherpa-onnx")
    assert "scales" not in caplog.text
    theirs = sherpa_onnx.OfflineRecognizer.from_omnilingual_asr_ctc(
        model=str(file), tokens=str(tmp_path / "tokens.txt")
    )
    waves, lengths = padded_batch(SIZES)
    for words, wave, length in zip(
        expected_texts(model, waves, lengths), waves, lengths.tolist(), strict=True
    ):
        stream = theirs.create_stream()
        stream.accept_waveform(16000, wave[:length].numpy())
        theirs.decode_stream(stream)
        assert stream.result.text.split() == words and words


def run_as_onnx_asr(directory, waves, lengths):
    """What onnx-asr makes of a `wav2vec2-ctc` model, of which release 0.12.0 knows nothing yet.

    This is its contract in short: names, masks, frames and vocabulary. With a later release its own
    class is taken.
    """
    try:
        model = onnx_asr.load_model("wav2vec2-ctc", directory)
    except onnx_asr.utils.ModelNotSupportedError:
        session = onnxruntime.InferenceSession(directory / "model.onnx")
        lines = (directory / "vocab.txt").read_text().splitlines()
        names = {int(number): token for token, number in (line.split(" ") for line in lines)}
        step = json.loads((directory / "config.json").read_text())["subsampling_factor"]
        (log_probs,) = session.run(["logprobs"], {"input_values": waves, "input_lengths": lengths})
        texts = []
        for row, length in zip(log_probs, lengths, strict=True):
            # One frame more than there are, or two.
            path = row[: length // step + 1].argmax(-1)
            kept = [n for n, before in zip(path, [-1, *path], strict=False) if n != before]
            tokens = [names[n] for n in kept if names[n] != "<blk>"]
            texts.append("".join(tokens).replace("\u2581", " ").strip())
        return texts
    return model.recognize(
        [wave[:n] for wave, n in zip(waves, lengths, strict=True)], sample_rate=16000
    )


def test_onnx_asr_recognises_the_same_in_batches(exported):
    model, directory = exported
    waves, lengths = padded_batch(SIZES)
    found = run_as_onnx_asr(directory / "export_onnx-asr", waves.numpy(), lengths.numpy())
    assert [text.split() for text in found] == expected_texts(model, waves, lengths)


def test_the_command_writes_what_they_read(exported):
    _, directory = exported
    for runtime, files in (
        ("sherpa-onnx", {"model.onnx", "tokens.txt", "export.json"}),
        ("onnx-asr", {"model.onnx", "vocab.txt", "config.json", "export.json"}),
    ):
        output = directory / f"export_{runtime}"
        assert {file.name for file in output.iterdir()} == files
        report = json.loads((output / "export.json").read_text())
        assert report["runtime"] == runtime and report["max_abs_diff"] <= 1e-4
        session = onnxruntime.InferenceSession(output / "model.onnx")
        metadata = session.get_modelmeta().custom_metadata_map
        assert metadata["vocab_size"] == "7" and metadata["subsampling_factor"] == "160"


def test_it_says_that_sherpa_onnx_scales_the_audio(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr("espnet_hjprune.export.runtimes.export", lambda *_: None)
    export_for_runtime(pruned("base"), tmp_path, "sherpa-onnx")
    assert "train with normalize_input: true" in caplog.text


def test_what_it_refuses(tmp_path):
    save_espnet(recogniser(random_encoder(small_config())), tmp_path)
    for options in (["--format", "torchscript"], ["--encoder_only"]):
        with pytest.raises(HJPruneError, match="--runtime needs --format onnx"):
            export_command.main(["--model_dir", str(tmp_path), "--runtime", "onnx-asr", *options])
    classifier = recogniser(random_encoder(small_config()), pooling="mean")
    with pytest.raises(HJPruneError, match="takes CTC models"):
        export_for_runtime(classifier, tmp_path, "onnx-asr")
    model = recogniser(random_encoder(small_config()), token_type="word")
    model.tokens = ["<blank>", "<unk>", "ONE", "A B", "<sos/eos>"]
    with pytest.raises(HJPruneError, match="the token 'A B' has a blank in it"):
        vocabulary(model)
    model.tokens[3] = "TWO"
    assert vocabulary(model).splitlines()[:3] == ["<blk> 0", "\u2581<unk> 1", "\u2581ONE 2"]


def test_padding_says_nothing(exported):
    model, directory = exported
    session = onnxruntime.InferenceSession(directory / "export_onnx-asr/model.onnx")
    waves, lengths = padded_batch([16000, 8000])
    (log_probs,) = session.run(
        None, {"input_values": waves.numpy(), "input_lengths": lengths.numpy()}
    )
    with torch.no_grad():
        frames = model(waves, lengths)[1]
    assert np.all(log_probs[1, frames[1] :].argmax(-1) == 0)
    assert np.allclose(np.exp(log_probs).sum(-1), 1, atol=1e-4)
