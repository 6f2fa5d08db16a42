"""Directories for Hugging Face and s3prl against our own encoder and decoder."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
import yaml
from models import FAMILIES, family_encoder, padded_batch, random_encoder, random_pruner
from models import small_config as small
from torch import nn

from espnet_hjprune.bin import export as export_command
from espnet_hjprune.data.tokens import build_detokenizer, build_tokenizer, train_bpe
from espnet_hjprune.errors import HJPruneError
from espnet_hjprune.export.graphs import FeatureModel
from espnet_hjprune.export.huggingface import STANDALONE, export_huggingface
from espnet_hjprune.export.standalone.hj_prune_encoder import HJPruneEncoder
from espnet_hjprune.export.standalone_state import standalone_architecture, standalone_state
from espnet_hjprune.inference.best_path import best_path_search
from espnet_hjprune.inference.decode import search
from espnet_hjprune.inference.model import FIRST_LABEL, Recogniser
from espnet_hjprune.model.upstream import SpeechUpstream
from espnet_hjprune.model.upstream_options import UpstreamOptions
from espnet_hjprune.pruning.slicing import compact_encoder

TOKENS = ["<blank>", "<unk>", "<space>", "A", "B", "C", "<sos/eos>"]
# Some of a frame, of none and of many; in samples.
SIZES = [9000, 16000, 399, 400, 12345]


def compact(encoder, sparsity=0.6, scatter=True):
    """An encoder with layers that have lost all heads or all FFN units."""
    gates = random_pruner(encoder.config, target_sparsity=sparsity).evaluation_gates()
    gates.head[0].zero_()
    gates.ffn[1].zero_()
    return compact_encoder(encoder, gates, scatter)[0]


def recogniser(encoder, pooling=None, projection=False, token_type="char", **options):
    """A CTC model or a classifier with random weights on top of an encoder."""
    upstream = SpeechUpstream(UpstreamOptions(architecture=encoder.config, **options))
    upstream.encoder = encoder
    if upstream.layer_weights is not None:
        nn.init.normal_(upstream.layer_weights)
    width = upstream.output_size()
    linear = nn.Linear(width, 12) if projection else None
    labels = len(TOKENS) - (FIRST_LABEL if pooling else 0)
    head = nn.Linear(12 if projection else width, labels)
    with torch.no_grad():
        head.weight.mul_(4)
    model = Recogniser(upstream, linear, head, TOKENS, token_type, None, pooling)
    return model.eval().requires_grad_(False)


def compare(model, run, tolerance=1e-5):
    """Compare outputs on valid frames, relative to the largest."""
    waves, lengths = padded_batch(SIZES, seed=3)
    with torch.no_grad():
        expected, frames = model(waves, lengths)
    found, found_frames = run(waves, lengths)
    assert torch.equal(frames, found_frames)
    if expected.dim() == 3:
        inside = torch.arange(expected.shape[1]) < frames.unsqueeze(1)
        expected, found = expected[inside], found[inside]
    assert (expected - found).abs().max() <= tolerance * max(1.0, expected.abs().max())


@pytest.mark.parametrize("style", ["base", "large"])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_encoder_that_needs_torch_alone_gives_the_same_states(family, style):
    dense = family_encoder(family, style)
    waves, lengths = padded_batch(SIZES)
    # An offset, which the statistics must take off.
    waves = torch.where(torch.arange(waves.shape[1]) < lengths.unsqueeze(1), waves + 0.05, 0.0)
    for encoder in (dense, compact(dense, scatter=style == "base")):
        alone = HJPruneEncoder(standalone_architecture(encoder)).eval()
        alone.load_state_dict(standalone_state(encoder))
        with torch.no_grad():
            expected, frames = encoder(waves, lengths, all_states=True, batch_invariant=True)
            found, found_frames = alone(waves, lengths)
        assert torch.equal(frames, found_frames) and len(expected) == len(found)
        inside = torch.arange(expected[0].shape[1]) < frames.unsqueeze(1)
        for one, other in zip(expected, found, strict=True):
            scale = max(1.0, one[inside].abs().max())
            assert (one - other)[inside].abs().max() <= 1e-5 * scale
        assert alone.receptive_field == encoder.config.receptive_field
        assert alone.downsampling == encoder.config.downsampling


def test_its_files_need_nothing_of_the_package():
    files = {file.stem: file for file in STANDALONE.glob("*.py") if file.name != "__init__.py"}
    for file in files.values():
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.ImportFrom) and node.level:
                assert node.module in files
            elif isinstance(node, ast.ImportFrom):
                assert node.module.split(".")[0] in {*sys.stdlib_module_names, "torch"} | (
                    {"safetensors"} if file.stem == "hubconf" else {"transformers"}
                )


@pytest.mark.parametrize(
    "model",
    [
        recogniser(compact(random_encoder(small())), projection=True),
        recogniser(compact(random_encoder(small("large"))), multilayer_feature=True, tile_factor=2),
        recogniser(random_encoder(small()), layer=1),
        recogniser(random_encoder(small()), pooling="mean"),
        recogniser(compact(random_encoder(small())), pooling="max"),
        recogniser(random_encoder(small()), pooling="CLS"),
        FeatureModel(SpeechUpstream(UpstreamOptions(architecture=small()))).eval(),
    ],
    ids=["projection", "layers", "layer", "mean", "max", "first", "encoder"],
)
def test_all_kinds_of_models(tmp_path, model):
    compare(model, export_huggingface(model, tmp_path, tmp_path))


ELSEWHERE = """
import sys

sys.modules["espnet_hjprune"] = sys.modules["espnet2"] = None  # Whoever imports them fails.
directory, wave_file, output = sys.argv[1:]
import torch
from transformers import AutoModel, AutoModelForCTC, AutoProcessor, pipeline

waves, lengths = torch.load(wave_file)
mask = (torch.arange(waves.shape[1]) < lengths[:, None]).long()
model = AutoModelForCTC.from_pretrained(directory, trust_remote_code=True)
encoder = AutoModel.from_pretrained(directory, trust_remote_code=True)
with torch.no_grad():
    logits = model(waves, attention_mask=mask).logits
    states = encoder(waves, attention_mask=mask, output_hidden_states=True).hidden_states
    hub = torch.hub.load(directory, "hj_prune_local", source="local")
    hub_states = hub([wave[:n] for wave, n in zip(waves, lengths)])["hidden_states"]
    import s3prl.hub
    from s3prl.nn import S3PRLUpstream

    s3prl.hub.hj_prune_local = lambda ckpt, **_: torch.hub.load(
        ckpt, "hj_prune_local", source="local"
    )
    upstream = S3PRLUpstream("hj_prune_local", path_or_url=directory).eval()
    # It pads and cuts what it gets to the length that it expects of s3prl's own upstreams.
    s3prl_states, s3prl_frames = upstream(waves[:2], lengths[:2])
recognise = pipeline("automatic-speech-recognition", directory, trust_remote_code=True)
# A name of a file would need ffmpeg.
audio = lambda: {"raw": waves[1].numpy(), "sampling_rate": 16000}
text = recognise(audio())["text"]
model.save_pretrained(directory + "_again")
AutoProcessor.from_pretrained(directory, trust_remote_code=True).save_pretrained(
    directory + "_again"
)
again = pipeline("automatic-speech-recognition", directory + "_again", trust_remote_code=True)
rate = hub.get_downsample_rates("hidden_states")
found = (logits, states, hub_states, s3prl_states, text, again(audio())["text"], rate)
torch.save(found, output)
"""


def test_it_runs_where_this_package_is_not(tmp_path):
    model = recogniser(compact(random_encoder(small())))
    directory = tmp_path / "model"
    directory.mkdir()
    export_huggingface(model, directory, tmp_path)
    waves, lengths = padded_batch(SIZES)
    torch.save((waves, lengths), tmp_path / "waves.pt")
    script = tmp_path / "elsewhere.py"
    script.write_text(ELSEWHERE)
    files = [str(tmp_path / name) for name in ("waves.pt", "out.pt")]
    subprocess.run([sys.executable, script, directory, *files], check=True, cwd=tmp_path)
    found = torch.load(tmp_path / "out.pt")
    logits, states, hub_states, s3prl_states, text, again, rate = found
    with torch.no_grad():
        expected, frames = model(waves, lengths)
        ours, _ = model.upstream.encoder(waves, lengths, all_states=True, batch_invariant=True)
    inside = torch.arange(expected.shape[1]) < frames.unsqueeze(1)
    assert (logits.log_softmax(-1) - expected)[inside].abs().max() <= 1e-4
    for others in (states, hub_states):
        for one, other in zip(ours, others, strict=True):
            assert (one - other)[inside].abs().max() <= 1e-5 * one[inside].abs().max()
    for one, other in zip(ours, s3prl_states, strict=True):
        for row in (0, 1):
            count = frames[row]
            assert (one[row, :count] - other[row, :count]).abs().max() <= 1e-4
    best = best_path_search(expected[1:2], frames[1:2])[0]
    # Blanks at the ends and beside one another are a matter of who joins the tokens.
    words = build_detokenizer("char")([TOKENS[number] for number in best.tokens]).split()
    assert text.split() == again.split() == words and words
    assert rate == model.upstream.config.downsampling


def test_half_precision_hears_long_utterances(tmp_path):
    model = recogniser(compact(random_encoder(small("large"))))
    export_huggingface(model, tmp_path, tmp_path)
    from transformers import AutoModelForCTC

    theirs = AutoModelForCTC.from_pretrained(
        tmp_path, trust_remote_code=True, dtype=torch.float16, output_hidden_states=True
    )
    # More samples than float16 can count.
    waves, lengths = padded_batch([80000, 70000])
    mask = (torch.arange(waves.shape[1]) < lengths.unsqueeze(1)).long()
    with torch.no_grad():
        output = theirs(waves.half(), attention_mask=mask)
        expected, frames = model(waves, lengths)
    assert output.logits.dtype == torch.float16 and len(output.hidden_states) == 4
    inside = torch.arange(expected.shape[1]) < frames.unsqueeze(1)
    found = output.logits.log_softmax(-1, dtype=torch.float32)
    assert (found - expected)[inside].abs().max() <= 0.01 * expected.abs().max()


def test_it_can_be_trained_there(tmp_path):
    model = recogniser(compact(random_encoder(small())))
    export_huggingface(model, tmp_path, tmp_path)
    from transformers import AutoModelForCTC

    theirs = AutoModelForCTC.from_pretrained(tmp_path, trust_remote_code=True).eval()
    waves, lengths = padded_batch([9000, 16000])
    mask = (torch.arange(waves.shape[1]) < lengths.unsqueeze(1)).long()
    labels = torch.tensor([[3, 4, -100], [5, 2, 3]])
    loss = theirs(waves, attention_mask=mask, labels=labels).loss
    log_probs, frames = model(waves, lengths)
    expected = torch.stack(
        [
            F.ctc_loss(log_probs[row, : frames[row]], label, frames[row : row + 1], count)
            for row, (label, count) in enumerate(
                [(labels[0, :2], torch.tensor([2])), (labels[1], torch.tensor([3]))]
            )
        ]
    ).mean()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-4)
    loss.backward()
    missing = [name for name, p in theirs.named_parameters() if p.grad is None]
    # Nothing of the input is masked there, and the first layer has lost its heads' bias.
    assert missing == ["hj_prune.encoder.mask_embedding"]


def test_classifiers_name_their_labels(tmp_path):
    model = recogniser(random_encoder(small()), pooling="mean")
    export_huggingface(model, tmp_path, tmp_path)
    from transformers import pipeline

    classify = pipeline("audio-classification", str(tmp_path), trust_remote_code=True)
    waves, lengths = padded_batch([9000])
    ((best,),) = search(model, *model(waves, lengths), lengths)
    (found,) = classify(waves[0].numpy(), top_k=1)
    assert found["label"] == TOKENS[best.tokens[0]]
    assert found["score"] == pytest.approx(torch.tensor(best.score).exp().item(), abs=1e-4)


@pytest.mark.parametrize("kind", ["char", "bars", "unigram", "bpe", "word"])
def test_tokenizers(tmp_path, kind):
    texts = ["SET WHITE AT B NINE", "BIN BLUE AT A SIX", "LAY RED BY C NINE", "SET RED AT A ONE"]
    token_type = {"char": "char", "bars": "char", "word": "word"}.get(kind, "bpe")
    model = recogniser(random_encoder(small()), token_type=token_type)
    if token_type == "char":
        # Bars are what such tokenizers use for a space.
        pieces = ["<space>", *("|" * (kind == "bars")), *sorted(set("".join(texts)) - {" "})]
    elif kind == "word":
        pieces = sorted({word for text in texts for word in text.split()})
    else:
        pieces = train_bpe(texts, tmp_path / "bpe", 24, kind)
        model.bpemodel = str(tmp_path / "bpe.model")
    model.tokens = ["<blank>", "<unk>", *pieces, "<sos/eos>"]
    model.head = nn.Linear(model.head.in_features, len(model.tokens))
    directory = tmp_path / "model"
    directory.mkdir()
    export_huggingface(model, directory, tmp_path)
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(directory, trust_remote_code=True)
    tokenize = build_tokenizer(model.token_type, model.bpemodel)
    detokenize = build_detokenizer(model.token_type, model.bpemodel)
    generator = torch.Generator().manual_seed(0)
    for text in texts:
        numbers = [model.tokens.index(token) for token in tokenize(text)]
        assert tokenizer(text).input_ids == numbers
        # What a model would say: every token for some frames, with blanks between.
        path = [0]
        for number in numbers:
            path += [number] * int(torch.randint(1, 4, (), generator=generator)) + [0]
        assert tokenizer.decode(path) == detokenize([model.tokens[n] for n in numbers]) == text


def save_espnet(model, directory):
    """Files as ESPnet writes them, of a CTC model."""
    options = model.upstream.options
    source = {"architecture": options.architecture.to_dict(), "tile_factor": options.tile_factor}
    config = {
        "frontend": "hj_prune",
        "frontend_conf": {"frontend_conf": source},
        "encoder": None,
        "token_list": TOKENS,
        "token_type": "char",
        "model_conf": {"ctc_weight": 1.0},
    }
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "config.yaml").write_text(yaml.safe_dump(config))
    state = {f"frontend.core.{n}": t for n, t in model.upstream.state_dict().items()}
    state |= {f"ctc.ctc_lo.{n}": t for n, t in model.head.state_dict().items()}
    torch.save(state, directory / "model.pth")


def test_the_command_writes_a_card_with_what_was_measured(tmp_path):
    save_espnet(recogniser(compact(random_encoder(small()))), tmp_path)
    model = {"macs": 2e9, "params": 3e6, "values": {"test_clean": 7.654}}
    record = {
        "title": "mini: HJ-Pruning",
        "seconds": 10.0,
        "metric": {"name": "WER"},
        "models": [{"name": "unpruned", **model}, {"name": "HJ-Pruning-MAC 0.4", **model}],
        "environment": {"pytorch version": "torch 2.8.0"},
    }
    (tmp_path / "results.json").write_text(json.dumps(record))
    export_command.main(["--model_dir", str(tmp_path), "--format", "huggingface"])
    output = tmp_path / "export_huggingface"
    card = (output / "README.md").read_text()
    assert "pipeline_tag: automatic-speech-recognition" in card
    assert "|HJ-Pruning-MAC 0.4|2|3 M|7.65|" in card and "torch 2.8.0" in card
    assert json.loads((output / "export.json").read_text())["max_abs_diff"] <= 1e-4
    config = json.loads((output / "config.json").read_text())
    assert config["auto_map"]["AutoModelForCTC"] == "modeling_hj_prune.HJPruneForCTC"
    # What was written before is replaced as a whole.
    export_command.main(["--model_dir", str(tmp_path), "--format", "huggingface", "--encoder_only"])
    assert not (output / "vocab.json").exists()


def test_what_it_refuses(tmp_path):
    save_espnet(recogniser(random_encoder(small())), tmp_path)
    argv = ["--model_dir", str(tmp_path), "--format", "huggingface"]
    with pytest.raises(HJPruneError, match="does not go with --quantize"):
        export_command.main([*argv, "--quantize", "int8"])
    for text, message in (
        ("{", r"results\.json is no JSON"),
        ('{"models": [{}]}', "not what stage 7"),
    ):
        (tmp_path / "results.json").write_text(text)
        with pytest.raises(HJPruneError, match=message):
            export_command.main(argv)
    assert not Path(tmp_path / "export_huggingface").exists()
    model = recogniser(random_encoder(small()))
    model.upstream.pruner = random_pruner(small())
    with pytest.raises(HJPruneError, match="the model has gates"):
        export_huggingface(model, tmp_path, tmp_path)


def uniform(style: str, **options):
    """A CTC model on an encoder that was pruned uniformly."""
    dense = random_encoder(small(style))
    gates = random_pruner(dense.config, target_sparsity=0.5, uniform=True).evaluation_gates()
    return recogniser(compact_encoder(dense, gates, scatter=False)[0], **options)


@pytest.mark.parametrize("style", ["base", "large"])
def test_stock_classes_hold_uniform_models(tmp_path, style):
    from transformers import AutoModelForCTC, AutoProcessor, Wav2Vec2ForCTC, Wav2Vec2Model

    model = uniform(style)
    export_huggingface(model, tmp_path, tmp_path, stock=True)
    assert not list(tmp_path.glob("*.py"))
    assert "trust_remote_code" not in (tmp_path / "README.md").read_text()
    theirs = AutoModelForCTC.from_pretrained(tmp_path).eval()
    assert type(theirs) is Wav2Vec2ForCTC
    processor = AutoProcessor.from_pretrained(tmp_path)
    encoder = Wav2Vec2Model.from_pretrained(tmp_path).eval()
    waves, lengths = padded_batch([16000])
    given = processor(waves[0].numpy(), sampling_rate=16000, return_tensors="pt")
    with torch.no_grad():
        expected, _ = model(waves, lengths)
        states, _ = model.upstream.encoder(waves, lengths, all_states=True)
        found = theirs(**given).logits.log_softmax(-1)
        output = encoder(**given, output_hidden_states=True)
    # Releases differ in whether the last of all has the norm behind the layers.
    found_states = [*output.hidden_states[:-1], output.last_hidden_state]
    # Transformers normalises with another epsilon than fairseq, from which these sizes are.
    tolerance = 1e-5 if style == "base" else 1e-3
    assert (expected - found).abs().max() <= tolerance * expected.abs().max()
    for one, other in zip(states, found_states, strict=True):
        assert (one - other).abs().max() <= tolerance * one.abs().max()
    best = best_path_search(expected, torch.tensor([expected.shape[1]]))[0]
    text = build_detokenizer("char")([TOKENS[number] for number in best.tokens])
    assert processor.decode(found[0].argmax(-1)).split() == text.split()


def test_the_command_writes_for_stock_classes(tmp_path):
    save_espnet(uniform("base"), tmp_path)
    argv = ["--model_dir", str(tmp_path), "--format", "huggingface", "--stock"]
    export_command.main(argv)
    export_command.main([*argv, "--encoder_only", "--output_dir", str(tmp_path / "encoder")])
    for name in ("export_huggingface_stock", "encoder"):
        report = json.loads((tmp_path / name / "export.json").read_text())
        assert report["stock"] and report["max_abs_diff"] <= 1e-4
    with pytest.raises(HJPruneError, match="--stock needs --format huggingface"):
        export_command.main([*argv[:2], "--stock"])


def test_what_stock_classes_cannot_hold(tmp_path):
    uneven = compact(random_encoder(small()), scatter=False)
    for model, reason in (
        (recogniser(uneven), "different numbers of heads.*uniform: true"),
        (uniform("base", tile_factor=2), "not read at the last hidden state alone; export without"),
        (uniform("base", projection=True), "more than a CTC layer on top; export without"),
        (recogniser(family_encoder("wavlm")), r"has a position bias \(WavLM\); export without"),
    ):
        with pytest.raises(HJPruneError, match=reason):
            export_huggingface(model, tmp_path, tmp_path, stock=True)
    assert not list(tmp_path.iterdir())
