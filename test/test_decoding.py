"""Batched decoding against ESPnet's model and search, and against all paths counted out."""

import itertools
import math

import kaldiio
import numpy as np
import pytest
import soundfile
import torch
import yaml
from espnet_runs import NO_OTHER_PARTS, build_model, task_module
from hypothesis import given, settings
from hypothesis import strategies as st
from models import padded_batch, small_config

from espnet_hjprune.bin import decode as decode_command
from espnet_hjprune.errors import HJPruneError
from espnet_hjprune.espnet.losses import find_upstreams
from espnet_hjprune.inference.beam import BeamSearch
from espnet_hjprune.inference.config import DecodeConfig
from espnet_hjprune.inference.decode import make_batches
from espnet_hjprune.inference.greedy import greedy_search
from espnet_hjprune.inference.model import FIRST_LABEL, load_recogniser

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
    with torch.no_grad():
        log_probs, frames = recogniser(waves, lengths)
        for row, size in enumerate(SIZES):
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
    batches = make_batches(counts, seconds)
    assert sorted(itertools.chain(*batches)) == sorted(counts)
    lengths = [counts[name] for batch in batches for name in batch]
    assert lengths == sorted(lengths, reverse=True)
    for batch in batches:
        assert len(batch) == 1 or len(batch) * counts[batch[0]] <= seconds * 16000


def write_audio(directory, kind):
    """Utterances in files or in an archive; returns their table."""
    waves, _ = padded_batch(LONG)
    location = {}
    for row, size in enumerate(LONG):
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


def test_options_of_the_command(tmp_path):
    save_model(tmp_path, "frontend")
    table = write_audio(tmp_path, "sound")
    base = ["--train_config", f"{tmp_path}/config.yaml", "--model_file", f"{tmp_path}/model.pth"]
    base += ["--wav_scp", str(table), "--output_dir", f"{tmp_path}/out"]
    keys = tmp_path / "keys"
    keys.write_text("u1 x\n")
    config = tmp_path / "decode.yaml"
    config.write_text("search: beam\nbeam_size: 5\nnbest: 2\n")
    decode_command.main([*base, "--key_file", str(keys), "--config", str(config)])
    for n in (1, 2):
        text = (tmp_path / f"out/{n}best_recog/text").read_text().splitlines()
        assert [line.split(" ")[0] for line in text] == ["u1"]
    for extra, message in (
        (["--key_file", str(keys), str(keys)], "need equally many values"),
        (["--search", "beam", "--beam_size_token", "-1"], "it is 0 for all tokens"),
        (["--model_file", str(table)], "is no file of weights"),
        (["--nbest", "3"], "nbest, ngram and lexicon need search: beam"),
        (["--search", "magic"], "search is magic; it is one of greedy, beam"),
        (["--config", str(tmp_path / "none.yaml")], "none.yaml does not exist"),
        (["--beam_size", "many"], "beam_size is 'many', which is no whole number"),
    ):
        with pytest.raises(HJPruneError, match=message):
            decode_command.main([*base, *extra])
    keys.write_text("u9 x\n")
    with pytest.raises(HJPruneError, match="has no utterance u9 of"):
        decode_command.main([*base, "--key_file", str(keys)])
