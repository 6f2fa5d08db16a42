"""Batched decoding against ESPnet's model and search, and against all paths counted out."""

import itertools
import json
import math
import threading
import time
from argparse import Namespace
from dataclasses import replace

import kaldiio
import numpy as np
import pytest
import soundfile
import torch
import yaml
from espnet_runs import NO_OTHER_PARTS, build_model, task_class, task_module
from hypothesis import given, settings
from hypothesis import strategies as st
from models import family_config, padded_batch, small_config

from espnet_hjprune.bin import decode as decode_command
from espnet_hjprune.errors import HJPruneError
from espnet_hjprune.espnet.losses import find_upstreams
from espnet_hjprune.espnet.short_audio import ShortAudioError
from espnet_hjprune.espnet.tasks import after_build_optimizers
from espnet_hjprune.espnet.teacher import load_teacher
from espnet_hjprune.inference.audio import ReadAhead
from espnet_hjprune.inference.batches import WASTE, Batch, make_batches, make_padded_batches
from espnet_hjprune.inference.beam import BeamSearch
from espnet_hjprune.inference.best_path import best_path_search
from espnet_hjprune.inference.config import DecodeConfig
from espnet_hjprune.inference.cuda_graph import CudaGraphs, _Captured
from espnet_hjprune.inference.decode import Decoder
from espnet_hjprune.inference.greedy import greedy_search
from espnet_hjprune.inference.model import FIRST_LABEL, load_recogniser
from espnet_hjprune.nn.config import ConvLayerConfig
from espnet_hjprune.scoring.decoded import join_jobs
from espnet_hjprune.scoring.sclite import score_set, scoring_tokenizer

TOKENS = ["<blank>", "<unk>", "<space>", "A", "B", "C", "<sos/eos>"]
SIZES = [9000, 16000, 390, 7000, 12345]
# Where there are as many tokens as frames, ESPnet writes <sos/eos> among them.
LONG = [9000, 16000, 2000, 7000, 12345]


def espnet_search(log_probs: torch.Tensor) -> tuple[list[int], float]:
    """Tokens and score of ESPnet's beam search with CTC alone and one hypothesis."""
    from espnet.nets.batch_beam_search import BatchBeamSearch
    from espnet.nets.scorers.ctc import CTCPrefixScorer

    class Given(torch.nn.Module):
        def log_softmax(self, x):
            return x

    eos = log_probs.shape[1] - 1
    search = BatchBeamSearch(
        beam_size=1,
        weights={"ctc": 1.0},
        scorers={"ctc": CTCPrefixScorer(Given(), eos)},
        sos=eos,
        eos=eos,
        vocab_size=eos + 1,
    )
    (best, *_) = search(log_probs.clone())
    # With as many tokens as frames ESPnet adds a second <sos/eos>.
    return [token for token in best.yseq[1:].tolist() if token != eos], float(best.score)


@settings(max_examples=60, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 40), min_size=1, max_size=4),
    vocabulary=st.integers(3, 12),
    sharpness=st.floats(0.5, 8),
    blank=st.floats(0, 6),
    seed=st.integers(0, 10**6),
)
def test_greedy_search_finds_what_espnet_finds(lengths, vocabulary, sharpness, blank, seed):
    generator = torch.Generator().manual_seed(seed)
    logits = sharpness * torch.randn(len(lengths), max(lengths), vocabulary, generator=generator)
    logits[..., 0] += blank
    log_probs = logits.log_softmax(-1)
    found = greedy_search(log_probs, torch.tensor(lengths))
    for row, length in enumerate(lengths):
        tokens, score = espnet_search(log_probs[row, :length])
        assert found[row].tokens == tokens
        assert found[row].score == pytest.approx(score, abs=2e-3)


@settings(max_examples=60, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 12), min_size=1, max_size=4),
    vocabulary=st.integers(2, 5),
    seed=st.integers(0, 10**6),
)
def test_best_path_takes_the_most_likely_token_of_every_frame(lengths, vocabulary, seed):
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(len(lengths), max(lengths), vocabulary, generator=generator)
    log_probs = logits.log_softmax(-1)
    found = best_path_search(log_probs, torch.tensor(lengths))
    for row, length in enumerate(lengths):
        path = [max(range(vocabulary), key=lambda n: log_probs[row, t, n]) for t in range(length)]
        assert found[row].tokens == [token for token, _ in itertools.groupby(path) if token]
        score = sum(log_probs[row, t, token].item() for t, token in enumerate(path))
        assert found[row].score == pytest.approx(score, abs=1e-4)


def test_greedy_search_of_long_audio_keeps_its_precision():
    """A minute of sure frames: the score is the probability of the only path."""
    tokens = torch.arange(3000) % 2
    logits = torch.zeros(1, 3000, 5)
    logits[0, torch.arange(3000), torch.where(tokens == 1, 0, 1 + torch.arange(3000) // 2 % 3)] = 30
    (found,) = greedy_search(logits.log_softmax(-1), torch.tensor([3000]))
    assert found.tokens == [1 + i % 3 for i in range(1500)]
    assert found.score == pytest.approx(0, abs=1e-4)


def all_labellings(log_probs: torch.Tensor) -> dict[tuple[int, ...], float]:
    """Probability of every token sequence, summed over all paths; token 0 is the blank."""
    found: dict[tuple[int, ...], float] = {}
    frames, vocabulary = log_probs.shape
    for path in itertools.product(range(vocabulary), repeat=frames):
        labels = tuple(token for token, _ in itertools.groupby(path) if token)
        score = math.exp(sum(log_probs[t, token].item() for t, token in enumerate(path)))
        found[labels] = found.get(labels, 0.0) + score
    return found


@pytest.mark.parametrize("seed", range(5))
def test_beam_search_finds_the_most_likely_tokens(seed):
    torch.manual_seed(seed)
    tokens = ["<blank>", "<unk>", "A", "B", "<sos/eos>"]
    log_probs = (2 * torch.randn(2, 6, 5)).log_softmax(-1)
    options = DecodeConfig(search="beam", beam_size=500, nbest=3)
    found = BeamSearch(tokens, options)(log_probs, torch.tensor([6, 4]))
    for row, frames in enumerate((6, 4)):
        scores = all_labellings(log_probs[row, :frames, :-1])
        best = sorted(scores, key=lambda labels: -scores[labels])[:3]
        assert [tuple(hypothesis.tokens) for hypothesis in found[row]] == best
        for hypothesis in found[row]:
            expected = math.log(scores[tuple(hypothesis.tokens)])
            assert hypothesis.score == pytest.approx(expected, abs=1e-3)


ARPA = """\\data\\
ngram 1={count}
ngram 2=1

\\1-grams:
-99	<s>	0
-1	</s>
{unigrams}

\\2-grams:
{bigram}

\\end\\
"""


def write_arpa(path, words, bigram):
    """A language model in which one pair of words is likely."""
    unigrams = "\n".join(f"-1\t{word}\t-1" for word in words)
    path.write_text(ARPA.format(count=len(words) + 2, unigrams=unigrams, bigram=bigram))
    return str(path)


def letters(*rows: str) -> torch.Tensor:
    """Frames that are sure of their letters; ``?`` is A or B, ``_`` the blank."""
    columns = {token[0] if len(token) == 1 else token: i for i, token in enumerate(TOKENS)}
    columns |= {"_": 0, " ": 2}
    logits = torch.full((len(rows), len(rows[0]), len(TOKENS)), -10.0)
    for r, row in enumerate(rows):
        for t, letter in enumerate(row):
            for one in "AB" if letter == "?" else letter:
                logits[r, t, columns[one]] = 0.0
    return logits.log_softmax(-1)


def test_an_ngram_of_tokens_decides(tmp_path):
    log_probs = letters("C_?", "C_?")
    frames = torch.tensor([3, 3])
    for letter in "AB":
        arpa = write_arpa(tmp_path / f"{letter}.arpa", ["<space>", *"ABC"], f"-0.01\tC {letter}")
        options = DecodeConfig(search="beam", ngram=arpa, lm_weight=1.0)
        found = BeamSearch(TOKENS, options)(log_probs, frames)
        assert [TOKENS[i] for i in found[0][0].tokens] == ["C", letter]


def test_a_lexicon_and_an_ngram_of_words_decide(tmp_path):
    lexicon = tmp_path / "lexicon.txt"
    lexicon.write_text("CA C A <space>\nCB C B <space>\nBB B B <space>\n")
    log_probs, frames = letters("BB_B_ C?__"), torch.tensor([10])
    for word in ("CA", "CB"):
        arpa = write_arpa(tmp_path / f"{word}.arpa", ["CA", "CB", "BB"], f"-0.01\tBB {word}")
        options = DecodeConfig(search="beam", ngram=arpa, lexicon=str(lexicon), lm_weight=2.0)
        ((best,),) = BeamSearch(TOKENS, options)(log_probs, frames)
        assert best.words == ["BB", word]
    # A search that has found no whole word gives none.
    options = DecodeConfig(search="beam", lexicon=str(lexicon))
    ((best,),) = BeamSearch(TOKENS, options)(letters("B"), torch.tensor([1]))
    assert best.words == []
    lexicon.write_text("CD C D <space>\n")
    with pytest.raises(HJPruneError, match=r"lexicon\.txt:1 spells CD with D"):
        BeamSearch(TOKENS, DecodeConfig(search="beam", lexicon=str(lexicon)))
    with pytest.raises(HJPruneError, match=r"no\.arpa \(--ngram\) does not exist"):
        BeamSearch(TOKENS, DecodeConfig(search="beam", ngram="no.arpa"))


def configuration(**changes):
    """An ESPnet configuration of a CTC model with the architecture inline."""
    config = {
        "token_list": TOKENS,
        "token_type": "char",
        "bpemodel": None,
        "use_preprocessor": False,
        "input_size": None,
        "frontend": "hj_prune",
        "frontend_conf": {
            "fs": "16k",
            "frontend_conf": {"architecture": small_config().to_dict()},
        },
        **NO_OTHER_PARTS,
        "model": "espnet",
        "model_conf": {"ctc_weight": 1.0},
        "init": None,
    }
    return config | changes


def frontend(**options):
    """The frontend with other options."""
    conf = configuration()["frontend_conf"]
    conf["frontend_conf"] |= options.pop("upstream_conf", {})
    return {"frontend_conf": conf | options}


# Lengths as HuBERT counts them, and strides of its own: the first frame needs 187 samples.
ODD = replace(
    family_config("hubert"),
    conv_layers=[ConvLayerConfig(32, 7, 5), ConvLayerConfig(32, 5, 3), ConvLayerConfig(32, 9, 7)],
)
CLASSIFIER = {"decoder": "linear_decoder", "model_conf": {"ctc_weight": 0.0}}
FORMS = {
    "frontend": {},
    "encoder": {
        "frontend": None,
        "frontend_conf": {},
        "input_size": 1,
        "encoder": "hj_prune",
        "encoder_conf": {"upstream_conf": {"architecture": small_config("large").to_dict()}},
    },
    "layers": frontend(multilayer_feature=True, upstream_conf={"tile_factor": 2}),
    "gated": frontend(pruning={"target_sparsity": 0.4, "ramp_steps": 0}) | {"model": "hj_prune"},
    "preencoder": {
        "preencoder": "linear",
        "preencoder_conf": {"input_size": 64, "output_size": 12},
    },
    "odd": frontend(upstream_conf={"architecture": ODD.to_dict()}),
    "wavlm": frontend(upstream_conf={"architecture": family_config("wavlm").to_dict()}),
    "classifier": CLASSIFIER,
    "maximum": CLASSIFIER | {"decoder_conf": {"pooling": "max"}},
    "first": CLASSIFIER | {"decoder_conf": {"pooling": "CLS"}},
}


def save_model(directory, form):
    """An ESPnet model with random weights, and its files."""
    config = configuration(**FORMS[form])
    torch.manual_seed(0)
    model = build_model(task_module("asr"), config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.startswith(("ctc.", "decoder.")):
                parameter.mul_(4)
        for upstream in find_upstreams(model).values():
            if upstream.pruner is not None:
                upstream.pruner.gates.log_alpha.normal_(0, 3)
    (directory / "config.yaml").write_text(yaml.safe_dump(config))
    torch.save(model.state_dict(), directory / "model.pth")
    return model


@pytest.mark.parametrize("form", FORMS)
def test_batches_give_what_espnet_gives_alone(tmp_path, form):
    model = save_model(tmp_path, form)
    recogniser = load_recogniser(tmp_path / "config.yaml", tmp_path / "model.pth")
    waves, lengths = padded_batch(SIZES)
    needed = recogniser.upstream.config.receptive_field
    with torch.no_grad():
        log_probs, frames = recogniser(waves, lengths)
        for row, size in enumerate(SIZES):
            if size < needed:
                # The decoder knows; see the tests of short audio.
                assert frames[row] == (2 if form == "layers" else 1)
                continue
            states, count = model.encode(waves[row : row + 1, :size], lengths[row : row + 1])
            assert frames[row] == count[0]
            if model.ctc is not None:
                expected = model.ctc.log_softmax(states)[0]
                found = log_probs[row, : frames[row]]
            else:
                expected = model.decoder.score(None, None, states[0])[0][FIRST_LABEL:-1]
                found = log_probs[row]
            torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"encoder": "conformer"},
            "has encoder: conformer, which only ESPnet's own decoding",
        ),
        ({"decoder": "transformer", "model_conf": {"ctc_weight": 0.3}}, "decoder: transformer"),
        ({"model_conf": {"ctc_weight": 0.3}}, r"neither CTC alone \(ctc_weight: 1.0\)"),
        ({"preencoder": "sinc"}, "preencoder: sinc"),
        ({"frontend": "default"}, "neither frontend: hj_prune nor encoder: hj_prune"),
    ],
)
def test_models_with_other_parts_are_refused(tmp_path, changes, message):
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(configuration(**changes)))
    with pytest.raises(HJPruneError, match=message):
        load_recogniser(tmp_path / "config.yaml", tmp_path / "model.pth")


def test_weights_of_another_model_are_refused(tmp_path):
    save_model(tmp_path, "frontend")
    state = torch.load(tmp_path / "model.pth")
    del state["frontend.core.encoder.feature_projection.linear.weight"]
    torch.save(state, tmp_path / "model.pth")
    with pytest.raises(HJPruneError, match="does not hold the weights of the model"):
        load_recogniser(tmp_path / "config.yaml", tmp_path / "model.pth")
    with pytest.raises(HJPruneError, match=r"no\.pth does not exist"):
        load_recogniser(tmp_path / "config.yaml", tmp_path / "no.pth")


@given(
    counts=st.dictionaries(st.text("abc", min_size=1), st.integers(1, 500_000), min_size=1),
    seconds=st.floats(0.1, 60),
)
def test_batches_hold_every_utterance_and_keep_their_limit(counts, seconds):
    batches = [batch.names for batch in make_batches(counts, seconds)]
    assert sorted(itertools.chain(*batches)) == sorted(counts)
    lengths = [counts[name] for batch in batches for name in batch]
    assert lengths == sorted(lengths, reverse=True)
    for batch in batches:
        assert len(batch) == 1 or len(batch) * counts[batch[0]] <= seconds * 16000


@given(
    counts=st.dictionaries(
        st.text("abcdef", min_size=1), st.integers(0, 600_000), min_size=1, max_size=200
    ),
    seconds=st.floats(0.1, 160),
    near=st.booleans(),
)
def test_padded_batches_have_few_shapes_and_little_padding(counts, seconds, near):
    if near:
        # Of similar length, as the utterances of a corpus are.
        counts = {name: 20_000 + count // 20 for name, count in counts.items()}
    config = small_config()
    batches = make_padded_batches(counts, seconds, config)
    lengths = [counts[name] for batch in batches for name in batch.names]
    assert lengths == sorted(lengths, reverse=True)
    assert sorted(name for batch in batches for name in batch.names) == sorted(counts)
    recurring: dict[tuple[int, int], int] = {}
    for batch in batches:
        longest = counts[batch.names[0]]
        rows, samples = batch.shape or (len(batch.names), longest)
        audio = sum(counts[name] for name in batch.names)
        assert rows >= len(batch.names) and samples >= longest
        assert rows * samples <= (1 + WASTE) * audio or rows == 1
        assert rows * samples <= seconds * 16000 or rows == 1
        if batch.shape is not None:
            recurring[batch.shape] = recurring.get(batch.shape, 0) + 1
            frames = config.conv_lengths(samples)[-1]
            assert frames % 8 == 0 and config.conv_lengths(samples - 1)[-1] < frames
    assert all(times > 1 for times in recurring.values())
    # A length has one number of rows, and there are few lengths.
    assert len({samples for _, samples in recurring}) == len(recurring) <= 50


def test_batches_of_a_corpus_recur():
    """Lengths as LibriSpeech's test sets have: nearly all is decoded in shapes that recur."""
    generator = np.random.default_rng(0)
    seconds = np.clip(generator.gamma(1.6, 4.6, 2620), 1.3, 35)
    counts = {f"u{i}": int(16000 * s) for i, s in enumerate(seconds)}
    batches = make_padded_batches(counts, 160, small_config())
    fixed = [batch for batch in batches if batch.shape is not None]
    assert len(fixed) > 0.8 * len(batches)
    assert len({batch.shape for batch in fixed}) < 0.4 * len(fixed)
    audio = sum(counts[name] for batch in fixed for name in batch.names)
    assert sum(math.prod(batch.shape) for batch in fixed) < 1.1 * audio


def spread(count, low=9600, high=10300):
    """Lengths of similar utterances in samples."""
    return [int(size) for size in np.linspace(high, low, count)]


def write_audio(directory, kind, sizes=tuple(LONG)):
    """Utterances in files or in an archive; returns their table."""
    waves, _ = padded_batch(list(sizes))
    location = {}
    for row, size in enumerate(sizes):
        samples = (waves[row, :size].numpy() * 20000).astype(np.int16)
        if kind == "sound":
            location[f"u{row}"] = str(directory / f"u{row}.wav")
            soundfile.write(location[f"u{row}"], samples, 16000)
        else:
            kaldiio.save_ark(
                str(directory / "data.ark"), {f"u{row}": (16000, samples)}, append=True,
                scp=str(directory / "data.scp"),
            )  # fmt: skip
    if kind != "sound":
        location = dict(line.split() for line in (directory / "data.scp").read_text().splitlines())
    table = directory / "wav.scp"
    table.write_text("".join(f"{name} {value}\n" for name, value in location.items()))
    return table


@pytest.mark.parametrize("kind", ["sound", "kaldi_ark"])
@pytest.mark.parametrize("form", ["frontend", "classifier"])
def test_the_files_of_the_command_are_those_of_espnet(tmp_path, form, kind):
    from espnet2.bin import asr_inference

    save_model(tmp_path, form)
    table = write_audio(tmp_path, kind)
    model = [str(tmp_path / name) for name in ("config.yaml", "model.pth")]
    decode_command.main(
        [
            "--train_config", model[0], "--model_file", model[1], "--wav_scp", str(table),
            "--audio_type", kind, "--output_dir", str(tmp_path / "ours"), "--batch_seconds", "2",
        ]
    )  # fmt: skip
    search = ["--ctc_weight", "1.0"]
    if form == "classifier":
        search = ["--ctc_weight", "0.0", "--maxlenratio", "-1"]
    asr_inference.main(
        [
            "--asr_train_config", model[0], "--asr_model_file", model[1], "--beam_size", "1",
            "--lm_weight", "0", "--output_dir", str(tmp_path / "espnet"), "--num_workers", "0",
            "--data_path_and_name_and_type", f"{table},speech,{kind}", *search,
        ]
    )  # fmt: skip
    for name in ("text", "token", "token_int", "score"):
        ours, theirs = (
            sorted((tmp_path / which / "1best_recog" / name).read_text().splitlines())
            for which in ("ours", "espnet")
        )
        assert len(ours) == len(LONG)
        if name != "score":
            assert ours == theirs
            continue
        for one, other in zip(ours, theirs, strict=True):
            (key, score), (same, expected) = one.split(), other.split()
            assert key == same
            assert float(score[7:-1]) == pytest.approx(float(expected[7:-1]), abs=2e-3)


def texts_of(path):
    """The texts of utterances without white space around them."""
    lines = (line.partition(" ") for line in path.read_text().splitlines())
    return {name: text.strip() for name, _, text in lines}


@pytest.mark.parametrize("form", ["frontend", "encoder", "odd", "wavlm", "layers", "classifier"])
def test_audio_without_a_frame_has_an_empty_text_and_is_scored(tmp_path, form, caplog):
    from espnet2.bin import asr_inference

    model = save_model(tmp_path, form)
    (upstream,) = find_upstreams(model).values()
    needed = upstream.config.receptive_field
    sizes = [0, 1, 100, needed - 1, needed, 500, 16000]
    table = write_audio(tmp_path, "sound", sizes)
    wav_scp = locations(table)
    # A constant utterance of one sample, and a table that has wrong lengths.
    soundfile.write(wav_scp["u1"], np.full(1, 0.5), 16000)
    (tmp_path / "utt2num_samples").write_text("u0 16000\nu6 3\n")
    recogniser = load_recogniser(tmp_path / "config.yaml", tmp_path / "model.pth")
    caplog.set_level("WARNING")
    found = {}
    for search in ("greedy", "beam"):
        options = DecodeConfig(search=search)
        Decoder(recogniser, options).decode(wav_scp, tmp_path, tmp_path / search)
        found[search] = texts_of(tmp_path / search / "1best_recog/text")
        assert f"4 of 7 utterances have less than {needed} samples" in caplog.messages[-1]
        alone = {}
        for name, location in wav_scp.items():
            one = {name: location}
            Decoder(recogniser, options, pads=True).decode(one, tmp_path, tmp_path / "alone")
            alone |= texts_of(tmp_path / "alone/1best_recog/text")
        assert found[search] == alone
        assert [found[search][f"u{row}"] for row in range(4)] == [""] * 4
        assert found[search]["u6"]
    job = tmp_path / "espnet/logdir/output.1"
    ctc = ["0.0", "--maxlenratio", "-1"] if form == "classifier" else ["1.0"]
    asr_inference.main(
        [
            "--asr_train_config", str(tmp_path / "config.yaml"), "--output_dir", str(job),
            "--asr_model_file", str(tmp_path / "model.pth"), "--beam_size", "1", "--lm_weight", "0",
            "--data_path_and_name_and_type", f"{table},speech,sound", "--num_workers", "0",
            "--ctc_weight", *ctc,
        ]
    )  # fmt: skip
    join_jobs(tmp_path / "espnet")
    assert texts_of(tmp_path / "espnet/text") == found["greedy"]
    names = list(wav_scp)[:4]
    counts = score_set(
        dict.fromkeys(names, "A B"),
        {name: found["greedy"][name] for name in names},
        dict.fromkeys(names, "s"),
        scoring_tokenizer("wer"),
        tmp_path / "score",
    )
    assert (counts.sentences, counts.words, counts.deletions, counts.errors) == (4, 8, 8, 8)


@pytest.mark.parametrize("form", ["frontend", "encoder"])
def test_a_training_goes_on_over_audio_without_a_frame(tmp_path, form):
    """It is padded in training and validation, also for a teacher; only decoding refuses it."""
    model = save_model(tmp_path, form)
    wave, length = torch.randn(1, 300), torch.tensor([300])
    with pytest.raises(ShortAudioError, match="has 300 samples, of which a frame needs 400"):
        model.encode(wave, length)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    after_build_optimizers(task_class(task_module("asr")), Namespace(), model, [optimizer])
    for trains in (False, True):
        states, frames = model.train(trains).encode(wave, length)
        assert frames.tolist() == [1] and states.isfinite().all()
    text, one = torch.tensor([[3]]), torch.tensor([1])
    loss, *_ = model.eval()(speech=wave, speech_lengths=length, text=text, text_lengths=one)
    assert loss.isfinite()
    asr = task_class(task_module("asr"))
    teacher = load_teacher(asr, str(tmp_path / "model.pth"), TOKENS)
    assert teacher.encode(wave, length)[1].tolist() == [1]


def test_options_of_the_command(tmp_path, caplog):
    save_model(tmp_path, "frontend")
    table = write_audio(tmp_path, "sound")
    base = ["--train_config", f"{tmp_path}/config.yaml", "--model_file", f"{tmp_path}/model.pth"]
    base += ["--wav_scp", str(table), "--output_dir", f"{tmp_path}/out"]
    keys = tmp_path / "keys"
    keys.write_text("u1 x\n")
    config = tmp_path / "decode.yaml"
    config.write_text("search: beam\nbeam_size: 5\nnbest: 2\n")
    more = ["--dtype", "bfloat16", "--num_workers", "1", "--cuda_graphs", "false"]
    caplog.set_level("INFO")
    decode_command.main([*base, "--key_file", str(keys), "--config", str(config), *more])
    assert "decoding in bfloat16 on cpu" in caplog.messages
    for n in (1, 2):
        text = (tmp_path / f"out/{n}best_recog/text").read_text().splitlines()
        assert [line.split(" ")[0] for line in text] == ["u1"]
    for extra, message in (
        (["--key_file", str(keys), str(keys)], "need equally many values"),
        (["--search", "beam", "--beam_size_token", "-1"], "it is 0 for all tokens"),
        (["--model_file", str(table)], "is no file of weights"),
        (["--nbest", "3"], "nbest, ngram and lexicon need search: beam"),
        (["--search", "magic"], "search is magic; it is one of greedy, best_path, beam"),
        (["--config", str(tmp_path / "none.yaml")], "none.yaml does not exist"),
        (["--beam_size", "many"], "beam_size is 'many', which is no whole number"),
        (["--dtype", "half"], "dtype is half; it is one of auto, float32, bfloat16, float16"),
        (["--cuda_graphs", "maybe"], "cuda_graphs is maybe; it is true or false"),
        (["--num_workers", "some"], "num_workers is 'some', which is no whole number; give one"),
        (["--num_workers", "-1"], "num_workers is -1; it is 0 or more, or auto"),
    ):
        with pytest.raises(HJPruneError, match=message):
            decode_command.main([*base, *extra])
    keys.write_text("u9 x\n")
    with pytest.raises(HJPruneError, match="has no utterance u9 of"):
        decode_command.main([*base, "--key_file", str(keys)])


def loaded(directory, form):
    """A recogniser with random weights."""
    save_model(directory, form)
    return load_recogniser(directory / "config.yaml", directory / "model.pth")


def locations(table):
    """Names and files of a table."""
    return dict(line.split() for line in table.read_text().splitlines())


@pytest.mark.parametrize("form", ["frontend", "encoder", "layers", "gated", "classifier", "first"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_gives_an_utterance_what_it_gets_alone(tmp_path, form, dtype):
    model = loaded(tmp_path, form)
    waves, lengths = padded_batch(SIZES)
    with torch.inference_mode():
        exact, _ = model(waves, lengths)
        model.convert(dtype)
        log_probs, frames = model(waves, lengths)
        assert log_probs.dtype == torch.float32
        for row, size in enumerate(SIZES):
            (alone,), _ = model(waves[row : row + 1, :size], lengths[row : row + 1])
            valid = slice(frames[row]) if log_probs.dim() == 3 else slice(None)
            # The norms of the whole batch would make a difference of more than 2.
            torch.testing.assert_close(log_probs[row, valid], alone, atol=0.05, rtol=0)
            torch.testing.assert_close(alone, exact[row, valid], atol=0.3, rtol=0)
    assert {parameter.dtype for parameter in model.upstream.encoder.parameters()} == {dtype}
    if form == "gated":
        assert model.upstream.pruner.gates.log_alpha.dtype == torch.float32


@pytest.mark.parametrize("form", ["frontend", "encoder", "layers", "classifier", "first"])
def test_fixed_shapes_change_no_result(tmp_path, form):
    sizes = [*spread(15), 3000, 390]
    table = write_audio(tmp_path, "sound", sizes)
    options = DecodeConfig(batch_seconds=5.2)
    ours, plain = (Decoder(loaded(tmp_path, form), options, pads=pads) for pads in (True, False))
    batches = ours.batches({f"u{row}": size for row, size in enumerate(sizes)})
    fixed = [batch for batch in batches if batch.shape is not None]
    # Rows without an utterance, frames that no utterance has, and batches as they are.
    assert any(len(batch.names) < batch.shape[0] for batch in fixed)
    assert 2 <= len(fixed) < len(batches)
    found = {}
    for name, decoder in (("ours", ours), ("plain", plain)):
        decoder.decode(locations(table), tmp_path, tmp_path / name)
        recog = tmp_path / name / "1best_recog"
        found[name] = {file.name: sorted(file.read_text().splitlines()) for file in recog.iterdir()}
    for file in ("text", "token", "token_int"):
        assert found["ours"][file] == found["plain"][file]
    for one, other in zip(found["ours"]["score"], found["plain"]["score"], strict=True):
        assert float(one.split("(")[1][:-1]) == pytest.approx(
            float(other.split("(")[1][:-1]), abs=1e-3
        )
    for batch in fixed:
        audio = ours._read(batch, locations(table), False)
        assert tuple(audio.wave.shape) == batch.shape
        with torch.inference_mode():
            log_probs, frames = ours.model(audio.wave, audio.lengths)
            for row in range(len(batch.names)):
                size = audio.lengths[row : row + 1]
                (alone,), (count,) = ours.model(audio.wave[row : row + 1, : int(size)], size)
                assert frames[row] == count
                valid = log_probs[row, :count] if log_probs.dim() == 3 else log_probs[row]
                torch.testing.assert_close(valid, alone, atol=1e-5, rtol=1e-5)


def test_audio_longer_than_its_table_says_is_decoded_whole(tmp_path):
    table = write_audio(tmp_path, "sound", spread(6))
    decoder = Decoder(loaded(tmp_path, "frontend"), DecodeConfig(), pads=True)
    batch = Batch(("u0", "u1", "u2"), (4, 7000))
    (decoded,) = decoder.run([batch], locations(table))
    (same,) = decoder.run([Batch(batch.names)], locations(table))
    assert decoded.hypotheses == same.hypotheses


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_results_come_in_order_and_errors_in_their_turn(workers):
    begun, reading = [], threading.Semaphore(0)

    def task(number):
        begun.append(number)
        if number == 5:
            raise HJPruneError("number 5")
        time.sleep(0.01 * (number % 3))
        reading.release()
        return number

    tasks = [lambda number=number: task(number) for number in range(40)]
    found = []
    with pytest.raises(HJPruneError, match="number 5"), ReadAhead(tasks, workers) as ahead:
        if workers:
            reading.acquire(timeout=10)
        # Without threads nothing is begun before it is asked for.
        assert bool(begun) == bool(workers)
        for number in ahead:
            found.append(number)
    assert found == [0, 1, 2, 3, 4]
    assert len(begun) <= 6 + 2 * workers
    with ReadAhead(tasks[:5], workers) as ahead:
        assert list(ahead) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("workers", [0, 2])
def test_readers_change_no_result_and_their_errors_leave_nothing(tmp_path, workers):
    table = write_audio(tmp_path, "sound", spread(9))
    model = loaded(tmp_path, "frontend")
    options = DecodeConfig(batch_seconds=1, num_workers=workers)
    Decoder(model, options).decode(locations(table), tmp_path, tmp_path / "out")
    Decoder(model, DecodeConfig()).decode(locations(table), tmp_path, tmp_path / "whole")
    text = [(tmp_path / name / "1best_recog/text").read_text() for name in ("out", "whole")]
    assert text[0] == text[1]
    assert json.loads((tmp_path / "out/timing.json").read_text())["utterances"] == 9
    (tmp_path / "utt2num_samples").write_text("".join(f"u{i} 10000\n" for i in range(9)))
    (tmp_path / "u7.wav").write_bytes(b"no audio")
    with pytest.raises(HJPruneError, match=r"audio file \S+u7\.wav is unreadable"):
        Decoder(model, options).decode(locations(table), tmp_path, tmp_path / "broken")
    assert not (tmp_path / "broken").exists()


@pytest.mark.parametrize("workers", [0, 2])
def test_waiting_for_audio_is_not_timed_and_work_is(tmp_path, workers):
    table = write_audio(tmp_path, "sound", spread(4))
    decoder = Decoder(loaded(tmp_path, "frontend"), DecodeConfig(num_workers=workers))
    read, search = decoder._read, decoder._search

    def slow_read(*args):
        time.sleep(0.3)
        return read(*args)

    def slow_search(encoded):
        time.sleep(0.05)
        return search(encoded)

    decoder._read, decoder._search = slow_read, slow_search
    begin = time.perf_counter()
    batches = [Batch((f"u{row}",)) for row in range(4)]
    times = [decoded.time for decoded in decoder.run(batches, locations(table))]
    wall = time.perf_counter() - begin
    assert sum(t.audio for t in times) == pytest.approx(sum(spread(4)) / 16000)
    # One wait with all of the threads at work is the least.
    assert 4 * 0.05 < sum(t.compute for t in times) < wall - (0.3 if workers else 4 * 0.3)


class Replayed:
    """What stands for a CUDA graph on the CPU: it reads and writes the same memory."""

    def __init__(self, function, inputs, outputs):
        self.function, self.inputs, self.outputs = function, inputs, outputs

    def replay(self):
        for own, new in zip(self.outputs, self.function(*self.inputs), strict=True):
            own.copy_(new)


class GraphsOnCpu(CudaGraphs):
    """Graphs that are captured without a GPU."""

    captures = 0

    def _capture(self, inputs):
        self.captures += 1
        own = [tensor.clone() for tensor in inputs]
        outputs = self.function(*own)
        return _Captured(Replayed(self.function, own, outputs), own, outputs)


def test_graphs_are_kept_within_their_limits():
    def double(x, y):
        return x * 2, y + 1

    graphs = GraphsOnCpu(double, limit=2)
    for size in (3, 4, 3, 5, 3, 4):
        x, y = torch.randn(size), torch.arange(size)
        found = graphs(x, y)
        assert torch.equal(found[0], 2 * x) and torch.equal(found[1], y + 1)
    # 3 was used when 5 came, 4 was not.
    assert graphs.captures == 4
    # A float and an index of 8 bytes each, as input and as output: 24 bytes an element.
    graphs = GraphsOnCpu(double, memory=24 * 8)
    for size in (3, 5, 3, 9, 9, 3):
        graphs(torch.randn(size), torch.arange(size))
    assert graphs.captures == 4


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("form", ["frontend", "encoder", "classifier"])
def test_a_gpu_finds_what_the_cpu_finds(tmp_path, form):
    table = write_audio(tmp_path, "sound", [*spread(15), 3000, 390])
    scores = {}
    for device, dtype, graphs in (
        ("cpu", "float32", False),
        ("cuda", "float32", False),
        ("cuda", "float32", True),
        ("cuda", "auto", True),
    ):
        options = DecodeConfig(batch_seconds=5.2, dtype=dtype, cuda_graphs=graphs)
        decoder = Decoder(loaded(tmp_path, form), options, device)
        counts = {f"u{row}": size for row, size in enumerate([*spread(15), 3000, 390])}
        # Twice: graphs are captured, then replayed.
        with torch.backends.cudnn.flags(allow_tf32=False):
            runs = [*decoder.run(decoder.batches(counts), locations(table))]
            runs += decoder.run(decoder.batches(counts), locations(table))
        for decoded in runs:
            for name, (best, *_) in zip(decoded.names, decoded.hypotheses, strict=True):
                expected = scores.setdefault(name, best.score)
                limit = 1e-2 if dtype == "float32" else 0.05 * abs(expected) + 1
                assert best.score == pytest.approx(expected, abs=limit)
        assert (decoder.graphs is not None) == graphs
