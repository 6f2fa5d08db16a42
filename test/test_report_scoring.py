"""Scoring by sclite: counts, the trn layout, and bad input."""

from __future__ import annotations

import logging
import subprocess
import sys
from pathlib import Path

import jiwer
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from espnet_hjprune.bin.recipe import score
from espnet_hjprune.data.datadir import read_table
from espnet_hjprune.errors import HJPruneError
from espnet_hjprune.scoring import sclite as scoring
from espnet_hjprune.scoring.case import fold_case
from espnet_hjprune.scoring.decoded import FILES, join_jobs
from espnet_hjprune.scoring.sclite import parse_result, score_set, scoring_tokenizer, trn_line

# Whatever has a meaning in a trn file must be counted as plain text.
word = st.text(alphabet="abcé'<>@{}();*/-▁#\\", min_size=1, max_size=4)
sentence = st.lists(word, max_size=7)


@st.composite
def nearly_right(draw: st.DrawFn) -> tuple[list[str], list[str]]:
    """A reference and the same with at most two edits."""
    reference = draw(sentence)
    hypothesis = list(reference)
    for _ in range(draw(st.integers(0, 2))):
        place = draw(st.integers(0, len(hypothesis)))
        width = draw(st.integers(0, 1))
        hypothesis[place : place + width] = draw(st.lists(word, max_size=1))
    return reference, hypothesis


def cheapest_alignment(reference: list[str], hypothesis: list[str]) -> int:
    """Cost of the best alignment with sclite's weights: 4 a substitution, 3 the others."""
    row = [3 * j for j in range(len(hypothesis) + 1)]
    for i, wanted in enumerate(reference, 1):
        before, row = row, [3 * i]
        for j, got in enumerate(hypothesis, 1):
            swap = before[j - 1] + (0 if wanted == got else 4)
            row.append(min(swap, before[j] + 3, row[j - 1] + 3))
    return row[-1]


def run_sclite(pairs: list[tuple[list[str], list[str]]], out_dir: Path, kind: str = "wer"):
    """Score pairs of reference and hypothesis words."""
    reference = {f"u{i:02d}": " ".join(r) for i, (r, _) in enumerate(pairs)}
    hypothesis = {f"u{i:02d}": " ".join(h) for i, (_, h) in enumerate(pairs)}
    utt2spk = {utterance: f"s{int(utterance[1:]) % 3}" for utterance in reference}
    return score_set(reference, hypothesis, utt2spk, scoring_tokenizer(kind), out_dir)


pairs_of = st.lists(nearly_right(), min_size=1, max_size=8).filter(lambda p: any(r for r, _ in p))


@settings(max_examples=60, deadline=None)
@given(pairs=pairs_of)
@example(pairs=[(["@>"], ["@\\>"])])
def test_counts_equal_jiwer_where_alignment_is_unambiguous(pairs, tmp_path_factory):
    # Up to two edits an utterance, sclite's weights (4 and 3) cannot prefer more errors.
    counts = run_sclite(pairs, tmp_path_factory.mktemp("score"))
    errors = 0
    for reference, hypothesis in pairs:
        if not reference:
            errors += len(hypothesis)
            continue
        found = jiwer.process_words(" ".join(reference), " ".join(hypothesis))
        errors += found.substitutions + found.deletions + found.insertions
    assert counts.words == sum(len(r) for r, _ in pairs)
    assert counts.sentences == len(pairs)
    assert counts.errors == errors
    assert counts.wrong_sentences == sum(r != h for r, h in pairs)


# Letters with and without case: ASCII, Latin-1, Greek, a digraph, and those whose folding is ASCII.
letter = st.sampled_from(
    "aAbBzZ09_[`{\u00e9\u00c9\u00df\u1e9e\u03c9\u03a9\u01c4\u01c6\u0130\u0131\u212ak\u017f"
)


@settings(max_examples=40, deadline=None)
@given(
    words=st.lists(st.text(letter, min_size=1, max_size=3), min_size=1, max_size=8),
    swaps=st.integers(0, 2**24 - 1),
    kind=st.sampled_from(["wer", "cer"]),
)
def test_case_counts_as_the_one_rule_says(words, swaps, kind, tmp_path_factory):
    """Every letter may change its case; sclite takes those for errors that the rule tells apart."""
    changed = [
        "".join(
            c.swapcase() if swaps >> (3 * row + column) & 1 and len(c.swapcase()) == 1 else c
            for column, c in enumerate(word)
        )
        for row, word in enumerate(words)
    ]
    pairs = [([one], [other]) for one, other in zip(words, changed, strict=True)]
    counts = run_sclite(pairs, tmp_path_factory.mktemp("score"), kind)
    units = [[w] if kind == "wer" else list(w) for w in words]
    others = [[w] if kind == "wer" else list(w) for w in changed]
    expected = sum(
        cheapest_alignment([fold_case(u) for u in one], [fold_case(u) for u in other])
        for one, other in zip(units, others, strict=True)
    )
    assert 4 * counts.substitutions + 3 * (counts.deletions + counts.insertions) == expected
    if kind == "wer":
        folded = [[fold_case(w) for w in side] for side in (words, changed)]
        assert counts.errors == round(jiwer.wer(*folded) * len(words))


def test_case_of_tokens_follows_the_rule(tmp_path):
    texts = {"u": "A\u00c9b"}
    for hypothesis, errors in (("a\u00c9B", 0), ("A\u00e9b", 1)):
        split = scoring_tokenizer("ter", "char")
        counts = score_set(texts, {"u": hypothesis}, {"u": "s"}, split, tmp_path)
        assert counts.errors == errors


@settings(max_examples=30, deadline=None)
@given(
    pairs=st.lists(st.tuples(sentence, sentence), min_size=1, max_size=6).filter(
        lambda p: any(r for r, _ in p)
    )
)
def test_counts_are_the_cheapest_alignment(pairs, tmp_path_factory):
    counts = run_sclite(pairs, tmp_path_factory.mktemp("score"))
    cost = 4 * counts.substitutions + 3 * (counts.deletions + counts.insertions)
    assert cost == sum(cheapest_alignment(r, h) for r, h in pairs)
    assert counts.words == counts.correct + counts.substitutions + counts.deletions


@settings(max_examples=20, deadline=None)
@given(pairs=pairs_of)
def test_character_counts_equal_jiwer_up_to_sclites_weights(pairs, tmp_path_factory):
    counts = run_sclite(pairs, tmp_path_factory.mktemp("score"), "cer")
    least = sum(
        jiwer.process_characters(" ".join(r), " ".join(h)).substitutions
        + jiwer.process_characters(" ".join(r), " ".join(h)).deletions
        + jiwer.process_characters(" ".join(r), " ".join(h)).insertions
        if r
        else len(" ".join(h))
        for r, h in pairs
    )
    assert counts.words == sum(len(" ".join(r)) for r, _ in pairs)
    assert least <= counts.errors <= 4 * least / 3


@pytest.fixture
def decoded(tmp_path: Path) -> dict[str, Path]:
    """The files of a small set that two jobs have decoded."""
    files = {
        "ref": ("data/text", "a-1 HELLO WORLD\na-2 GOOD DAY TO YOU\nb-1 YES\n"),
        "utt2spk": ("data/utt2spk", "a-1 a\na-2 a\nb-1 b\n"),
        "hyp": ("set/logdir/output.1/1best_recog/text", "a-1 HELLO WORD\nb-1 YES\n"),
        "hyp2": ("set/logdir/output.2/1best_recog/text", "a-2 GOOD DAY TO YOU\n"),
    }
    for path, text in files.values():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)
    return {name: tmp_path / path for name, (path, _) in files.items()}


def arguments(out_dir: Path, *more: str) -> list[str]:
    """Return the options of bin.recipe.score."""
    return ["--data_dir", str(out_dir / "data"), "--decode_dir", str(out_dir / "set"), *more]


def test_trn_layout(decoded, tmp_path):
    score.main(arguments(tmp_path, "--type", "wer", "cer"))
    assert (tmp_path / "set/score_wer/ref.trn").read_text() == (
        "HELLO WORLD\t(a-a-1)\nGOOD DAY TO YOU\t(a-a-2)\nYES\t(b-b-1)\n"
    )
    assert (tmp_path / "set/score_wer/hyp.trn").read_text().startswith("HELLO WORD\t(a-a-1)\n")
    assert (tmp_path / "set/score_cer/ref.trn").read_text().endswith("Y E S\t(b-b-1)\n")
    assert (
        "H E L L O <space> W O R L D\t(a-a-1)" in (tmp_path / "set/score_cer/ref.trn").read_text()
    )
    assert sorted(p.name for p in (tmp_path / "set/score_wer").iterdir()) == [
        "hyp.trn",
        "ref.trn",
        "result.txt",
    ]
    counts = parse_result(tmp_path / "set/score_wer/result.txt")
    assert (counts.sentences, counts.words, counts.substitutions, counts.errors) == (3, 7, 1, 1)
    assert counts.error_rate == pytest.approx(100 / 7)
    assert "Sum/Avg" in (tmp_path / "set/score_wer/result.txt").read_text()


def test_scoring_after_a_kill_starts_clean(decoded, tmp_path):
    (tmp_path / "set/score_wer/.sclite").mkdir(parents=True)
    (tmp_path / "set/score_wer/.sclite/ref.trn").write_text("HALF A LI")
    score.main(arguments(tmp_path))
    assert parse_result(tmp_path / "set/score_wer/result.txt").words == 7
    assert not (tmp_path / "set/score_wer/.sclite").exists()


def test_missing_utterances_count_as_deleted(decoded, tmp_path, caplog):
    decoded["hyp"].write_text("a-1 HELLO WORLD\n")
    decoded["hyp2"].unlink()
    with caplog.at_level(logging.INFO):
        score.main(arguments(tmp_path, "--type", "wer", "cer"))
    assert caplog.text.count("2 of 3 utterances are missing") == 1
    assert "WER 71.43 % (5 errors in 7 tokens, 3 utterances): " in caplog.text
    assert "CER " in caplog.text
    counts = parse_result(tmp_path / "set/score_wer/result.txt")
    assert (counts.sentences, counts.words, counts.deletions, counts.correct) == (3, 7, 5, 2)


def test_token_errors_use_the_models_own_tokens(decoded, tmp_path):
    import sentencepiece

    sentences = ["HELLO WORLD", "GOOD DAY TO YOU", "YES", "HELLO DAY"]
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(sentences * 20),
        model_prefix=str(tmp_path / "bpe"),
        vocab_size=20,
        minloglevel=2,
    )
    options = ["--type=ter", "--token_type=bpe", f"--bpemodel={tmp_path / 'bpe.model'}"]
    score.main(arguments(tmp_path, *options))
    processor = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / "bpe.model"))
    first = " ".join(processor.encode("HELLO WORLD", out_type=str))
    assert (tmp_path / "set/score_ter/ref.trn").read_text().startswith(f"{first}\t(a-a-1)\n")


def test_missing_sclite_is_one_sentence(decoded, tmp_path):
    command = [sys.executable, "-m", "espnet_hjprune.bin.recipe.score"]
    done = subprocess.run(
        [*command, *arguments(tmp_path)],
        env={"PATH": str(tmp_path), "PYTHONPATH": str(Path(__file__).parents[1])},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert done.stderr.strip().count("\n") == 0
    assert "sclite was not found" in done.stderr and "install" in done.stderr
    assert not (tmp_path / "set/score_wer").exists()


def test_sclite_in_tools_is_found(tmp_path, monkeypatch):
    program = tmp_path / "tools/sctk/bin/sclite"
    program.parent.mkdir(parents=True)
    program.write_text("")
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(scoring, "_REPOSITORY", tmp_path)
    assert scoring.find_sctk("sclite") == [str(program)]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("hyp", "c-9 NO\n", "the reference lacks, for example 'c-9'"),
        ("hyp", "a-1 NO\na-1 NO\n", "'a-1' a second time"),
        ("utt2spk", "a-1 a\n", "no speaker for utterance 'a-2'"),
        ("ref", "a-1\na-2\nb-1\n", "no words at all"),
        ("ref", "", "the reference lacks"),
    ],
)
def test_bad_input_names_the_culprit_and_keeps_nothing(decoded, tmp_path, name, text, message):
    decoded[name].write_text(text)
    with pytest.raises(HJPruneError, match=message):
        score.main(arguments(tmp_path))
    assert not (tmp_path / "set/score_wer").exists()


def test_ids_that_sclite_cannot_tell_apart_are_refused(tmp_path):
    texts = {"u": "A", "U": "B"}
    with pytest.raises(HJPruneError, match="check the utterance ids"):
        score_set(texts, texts, {"u": "s", "U": "s"}, str.split, tmp_path / "wer")
    assert not list((tmp_path / "wer").iterdir())
    with pytest.raises(HJPruneError, match="parenthesis"):
        trn_line(["A"], "s", "u(1)")


@pytest.mark.parametrize(
    ("kind", "token_type", "bpemodel", "message"),
    [
        ("ter", None, None, "needs --token_type"),
        ("ter", "phn", None, "token type 'phn' is unknown; it is char, bpe, word"),
        ("ter", "bpe", None, "model None does not exist; give --bpemodel"),
        ("ter", "bpe", "no.model", "model no.model does not exist; give --bpemodel"),
        ("ter", "bpe", __file__, "is no sentencepiece model"),
    ],
)
def test_tokenizer_options(kind, token_type, bpemodel, message):
    with pytest.raises(HJPruneError, match=message):
        scoring_tokenizer(kind, token_type, bpemodel)


def test_unfinished_result_is_refused(tmp_path):
    with pytest.raises(HJPruneError, match="does not exist; run stage 7"):
        parse_result(tmp_path / "result.txt")
    (tmp_path / "result.txt").write_text("SYSTEM SUMMARY\n")
    with pytest.raises(HJPruneError, match="no table of totals"):
        parse_result(tmp_path / "result.txt")


# The results of several jobs

ids = st.text(alphabet="abzAZ09-_.é", min_size=1, max_size=5)
# None of these is the end of a line.
hypotheses = st.text(alphabet="aÉ \t\r\v\f\x1c\x85\xa0\u2028\u2029\u3000", max_size=6)


def write_jobs(directory: Path, jobs: list[dict[str, str]], name: str = "text") -> None:
    """Write what every job has decoded."""
    for number, lines in enumerate(jobs, 1):
        path = directory / f"logdir/output.{number}/1best_recog" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes("".join(f"{key} {text}\n" for key, text in lines.items()).encode())


@settings(max_examples=40, deadline=None)
@given(st.dictionaries(ids, hypotheses, min_size=1), st.integers(1, 12))
@example({"a": "", "b": "\u2028", "B": "\xa0x", "é": " x"}, 3)
def test_jobs_are_joined_as_by_sort(tmp_path_factory, texts, count):
    directory = tmp_path_factory.mktemp("set")
    items = list(texts.items())
    write_jobs(directory, [dict(items[job::count]) for job in range(count)])
    join_jobs(directory)
    joined = directory.joinpath("text").read_bytes()
    parts = list(directory.glob("logdir/output.*/1best_recog/text"))
    assert len(parts) == count
    sort = subprocess.run(["sort", *parts], capture_output=True, check=True, env={"LC_ALL": "C"})
    assert joined == sort.stdout
    lines = joined.decode().removesuffix("\n").split("\n")
    assert dict(line.split(" ", 1) for line in lines) == texts


def test_all_files_of_the_jobs_are_joined(tmp_path):
    for name in FILES:
        write_jobs(tmp_path, [{"b": name}, {"a": name}], name)
    tmp_path.joinpath("logdir/output.1/1best_recog/score").unlink()
    for name in ("token", "score"):
        tmp_path.joinpath("logdir/output.2/1best_recog", name).unlink()
    join_jobs(tmp_path)
    assert tmp_path.joinpath("text").read_text() == "a text\nb text\n"
    assert tmp_path.joinpath("token").read_text() == "b token\n"
    assert tmp_path.joinpath("token_int").read_text() == "a token_int\nb token_int\n"
    assert not tmp_path.joinpath("score").exists()


def test_espnets_mark_of_the_end_is_no_word(tmp_path, caplog):
    """It stands behind hypotheses with as many tokens as frames."""
    write_jobs(tmp_path, [{"a": "<sos/eos>", "b": "X Y<sos/eos>"}, {"c": "X"}])
    write_jobs(tmp_path, [{"a": "<sos/eos>"}], "token")
    join_jobs(tmp_path)
    assert read_table(tmp_path / "text") == {"a": "", "b": "X Y", "c": "X"}
    assert tmp_path.joinpath("token").read_text() == "a <sos/eos>\n"
    assert "2 of 3 texts had <sos/eos>" in caplog.text


def test_a_line_without_its_end_stays_a_line(tmp_path):
    write_jobs(tmp_path, [{"b": "x"}, {"a": "y"}])
    for job in (1, 2):
        path = tmp_path / f"logdir/output.{job}/1best_recog/text"
        path.write_bytes(path.read_bytes().removesuffix(b"\n"))
    join_jobs(tmp_path)
    assert tmp_path.joinpath("text").read_text() == "a y\nb x\n"


def test_a_set_without_results_is_refused(decoded, tmp_path):
    for name in ("hyp", "hyp2"):
        decoded[name].unlink()
    with pytest.raises(HJPruneError, match="set/logdir has no results; decode the set first"):
        score.main(arguments(tmp_path))
    assert not (tmp_path / "set/text").exists()


def test_empty_hypotheses_count_as_deleted(decoded, tmp_path):
    decoded["hyp"].write_text("a-1\nb-1 \n")
    score.main(arguments(tmp_path))
    counts = parse_result(tmp_path / "set/score_wer/result.txt")
    assert (counts.deletions, counts.correct) == (3, 4)


def test_exotic_white_space_survives_to_the_scores(decoded, tmp_path):
    text = "a-1 HELLO\u2028WORLD\n"
    decoded["ref"].write_text(text + "a-2 GOOD DAY TO YOU\nb-1 YES\n")
    decoded["hyp"].write_text(text + "b-1 YES\n")
    score.main(arguments(tmp_path, "--type", "wer", "cer"))
    assert (tmp_path / "set/text").read_text("utf-8").startswith(text)
    for score_type in ("wer", "cer"):
        assert parse_result(tmp_path / f"set/score_{score_type}/result.txt").errors == 0
