"""Which differences mean something: alignments, bootstrap, MAPSSWE, McNemar, the command."""

from __future__ import annotations

import json
import math
import random
import statistics
import sys
from pathlib import Path

import numpy as np
import pytest
from report_fixtures import write_decoded, write_summary

from espnet_hjprune.bin import compare
from espnet_hjprune.bin.recipe import report
from espnet_hjprune.errors import HJPruneError
from espnet_hjprune.report.comparison import comparison_section, difference_text, p_text
from espnet_hjprune.report.results_md import METRICS, DecodedModel
from espnet_hjprune.scoring import significance
from espnet_hjprune.scoring.alignment import Alignments, read_alignments
from espnet_hjprune.scoring.decoding_time import DecodingTime
from espnet_hjprune.scoring.sclite import score_set, scoring_tokenizer
from espnet_hjprune.scoring.significance import ComparedSystems, Estimate, mapsswe, mcnemar

SETS = ["test_clean", "test_other"]


def system(rng: random.Random, lengths: list[int], error_rate: float) -> Alignments:
    """A system that errs at random, also by words before, between and behind those it heard."""
    letters = []
    for length in lengths:
        text = ""
        for place in range(length + 1):
            text += "I" * (rng.random() < error_rate / 2)
            if place < length:
                text += rng.choices("CSD", [1 - error_rate, error_rate / 2, error_rate / 2])[0]
        letters.append(text)
    return Alignments(tuple(f"u-{n:05d}" for n in range(len(lengths))), tuple(letters))


def some_lengths(rng: random.Random, n: int, shortest: int = 0, longest: int = 12) -> list[int]:
    return [rng.randint(shortest, longest) for _ in range(n)]


def test_letters_of_known_texts(tmp_path):
    reference = {"B-2": "set red", "B-1": "bin blue at a", "a-1": "", "a-2": "", "a-3": "(x) y:z,"}
    hypothesis = {"B-2": "SET red now", "B-1": "bin at E", "a-2": "oh", "a-3": '(x) y:z" %'}
    speakers = {utterance: utterance[0] for utterance in reference}
    counts = score_set(reference, hypothesis, speakers, scoring_tokenizer("wer"), tmp_path / "wer")
    found = read_alignments(tmp_path / "wer")
    assert found.utterances == ("B-B-1", "B-B-2", "a-a-1", "a-a-2", "a-a-3")
    assert found.letters[:4] == ("CDCS", "CCI", "", "I")
    # sclite may put the inserted word before or behind the substituted one.
    assert sorted(found.letters[4]) == ["C", "I", "S"]
    assert found.words == [4, 2, 0, 0, 2] and sum(found.words) == counts.words
    assert found.errors == [2, 1, 0, 1, 2] and sum(found.errors) == counts.errors
    assert found.to_text().split() == ["CDCS", "CCI", "-", "I", found.letters[4]]
    assert Alignments.from_text(" ".join(found.utterances), found.to_text()) == found


def test_texts_that_were_changed_after_scoring_are_refused(tmp_path):
    texts = {"a-1": "set red", "a-2": "bin"}
    score_set(texts, texts, {"a-1": "a", "a-2": "a"}, scoring_tokenizer("wer"), tmp_path / "wer")
    hyp = tmp_path / "wer/hyp.trn"
    hyp.write_text(hyp.read_text().replace("red", "blue"))
    with pytest.raises(HJPruneError, match=r"do not have the 0 errors of result\.txt; remove"):
        read_alignments(tmp_path / "wer")
    hyp.unlink()
    with pytest.raises(HJPruneError, match=r"hyp\.trn does not exist; run stage 7"):
        read_alignments(tmp_path / "wer")


def test_intervals_are_those_of_a_plain_bootstrap():
    rng = random.Random(1)
    lengths = some_lengths(rng, 150)
    first, second = system(rng, lengths, 0.2), system(rng, lengths, 0.25)
    found = ComparedSystems([[first], [second]]).compare(0, 1)
    rates, generator = [], np.random.default_rng(12345)
    counts = list(zip(first.words, first.errors, second.errors, strict=True))
    for _ in range(6000):
        chosen = [counts[n] for n in generator.integers(0, len(counts), len(counts))]
        words, *errors = map(sum, zip(*chosen, strict=True))
        rates.append([100 * number / words for number in errors])
    one, two = np.array(rates).T
    for estimate, draws in (
        (found.first, one),
        (found.second, two),
        (found.difference, two - one),
    ):
        low, high = np.percentile(draws, [2.5, 97.5])
        # The sampling error of such percentiles is some 3 % of the interval's half width.
        assert [estimate.low, estimate.high] == pytest.approx([low, high], abs=0.06 * (high - low))
        assert estimate.low < estimate.value < estimate.high
    assert found.first.value == pytest.approx(100 * sum(first.errors) / sum(lengths))
    assert found.difference.value == pytest.approx(found.second.value - found.first.value)
    assert found.better == pytest.approx(np.mean(two < one), abs=0.02)


def test_intervals_of_a_large_set_are_those_of_the_normal_distribution():
    rng = random.Random(2)
    lengths = some_lengths(rng, 3000, shortest=1)
    one, two = system(rng, lengths, 0.10), system(rng, lengths, 0.11)
    found = ComparedSystems([[one], [two]]).compare(0, 1).difference
    errors = np.array(two.errors) - np.array(one.errors)
    words = np.array(lengths)
    # Delta method for a ratio of sums.
    residual = errors - errors.sum() / words.sum() * words
    spread = 100 * math.sqrt(len(words) * residual.var()) / words.sum()
    assert found.low == pytest.approx(found.value - 1.96 * spread, abs=0.1 * spread)
    assert found.high == pytest.approx(found.value + 1.96 * spread, abs=0.1 * spread)


def test_equal_systems_do_not_differ():
    rng = random.Random(3)
    one = system(rng, some_lengths(rng, 80), 0.2)
    found = ComparedSystems([[one], [one]]).compare(0, 1)
    assert found.difference == Estimate(0.0, 0.0, 0.0) and found.p_value == 1.0
    assert found.better == 0.0 and found.first == found.second
    right = Alignments(("a", "b"), ("CC", "C"))
    assert mapsswe(right, right) == mcnemar(right, right) == 1.0
    assert difference_text(Estimate(-0.001, -0.004, 0.003)) == "+0.00 [+0.00, +0.00]"


def test_reports_are_the_same_whenever_they_are_made():
    rng = random.Random(4)
    lengths = some_lengths(rng, 60)
    systems = [[system(rng, lengths, 0.2)], [system(rng, lengths, 0.3)]]
    assert ComparedSystems(systems).compare(0, 1) == ComparedSystems(systems).compare(0, 1)
    # A further system does not change what is said of the others.
    more = ComparedSystems([*systems, [system(rng, lengths, 0.1)]])
    assert more.compare(0, 1).difference.low == pytest.approx(
        ComparedSystems(systems).compare(0, 1).difference.low
    )


def test_seeds_are_resampled_together():
    rng = random.Random(5)
    lengths = some_lengths(rng, 120)
    seeds = [system(rng, lengths, rate) for rate in (0.2, 0.3, 0.4)]
    other = system(rng, lengths, 0.3)
    found = ComparedSystems([seeds, [other]]).compare(0, 1)
    # Three seeds side by side in one utterance have the mean of their errors.
    texts = zip(*(seed.letters for seed in seeds), strict=True)
    joined = Alignments(seeds[0].utterances, tuple(map("".join, texts)))
    expected = ComparedSystems([[joined]]).estimate(0)
    assert found.first.value == pytest.approx(expected.value)
    assert (found.first.low, found.first.high) == pytest.approx((expected.low, expected.high))
    assert found.p_value is None and p_text(None) == "-"


def test_a_set_of_one_utterance_has_no_spread():
    one, two = Alignments(("a",), ("CS",)), Alignments(("a",), ("CC",))
    assert ComparedSystems([[one], [two]]).compare(0, 1).difference == Estimate(-50, -50, -50)


def segment_differences(first: Alignments, second: Alignments) -> list[int]:
    """Errors of the first less those of the second in each segment, by NIST's definition."""
    found = []
    for pair in zip(first.letters, second.letters, strict=True):
        # Errors of both at each word of the reference, and between the words.
        words, between = [], []
        for letters in pair:
            words.append([int(letter != "C") for letter in letters if letter != "I"])
            gaps = [0]
            for letter in letters:
                if letter == "I":
                    gaps[-1] += 1
                else:
                    gaps.append(0)
            between.append(gaps)
        events = []
        for place in range(len(words[0]) + 1):
            if between[0][place] or between[1][place]:
                events.append((between[0][place], between[1][place]))
            if place < len(words[0]):
                events.append((words[0][place], words[1][place]))
        open_errors, right = [], 0
        for event in events:
            if any(event):
                open_errors.append(event)
                right = 0
            else:
                right += 1
                if right == 2 and open_errors:
                    found.append(sum(a - b for a, b in open_errors))
                    open_errors = []
        if open_errors:
            found.append(sum(a - b for a, b in open_errors))
    return found


@pytest.mark.parametrize("seed", range(12))
def test_mapsswe_is_what_its_definition_gives(seed):
    rng = random.Random(seed)
    lengths = some_lengths(rng, rng.randint(2, 60), shortest=seed % 2)
    first, second = system(rng, lengths, 0.15), system(rng, lengths, 0.15 + 0.02 * seed)
    differences = segment_differences(first, second)
    spread = statistics.stdev(differences) / math.sqrt(len(differences))
    z = statistics.fmean(differences) / spread
    expected = 2 * statistics.NormalDist().cdf(-abs(z))
    assert mapsswe(first, second) == pytest.approx(expected, abs=1e-3)
    assert mapsswe(second, first) == mapsswe(first, second)


def test_mapsswe_needs_sc_stats(monkeypatch, tmp_path, caplog):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("espnet_hjprune.scoring.sclite._REPOSITORY", tmp_path)
    significance._sc_stats.cache_clear()
    for _ in range(2):
        assert mapsswe(Alignments(("a",), ("CS",)), Alignments(("a",), ("CC",))) is None
    significance._sc_stats.cache_clear()
    assert caplog.text.count("there are no p-values of MAPSSWE: sc_stats was not found") == 1


def test_mcnemar_is_a_binomial_test():
    rng = random.Random(6)
    letters = [rng.choices(["C", "S"], [0.8, 0.2], k=200) for _ in range(2)]
    utterances = tuple(f"u-{n:03d}" for n in range(200))
    first, second = (Alignments(utterances, tuple(texts)) for texts in letters)
    split = [pair for pair in zip(*letters, strict=True) if pair[0] != pair[1]]
    fewer = min(split.count(("C", "S")), split.count(("S", "C")))
    tail = sum(math.comb(len(split), k) for k in range(fewer + 1)) / 2 ** len(split)
    assert mcnemar(first, second) == pytest.approx(min(1.0, 2 * tail))
    found = ComparedSystems([[first], [second]], accuracy=True).compare(0, 1)
    assert found.first.value == pytest.approx(letters[0].count("C") / 2)
    assert found.p_value == mcnemar(first, second)
    error_rates = ComparedSystems([[first], [second]]).compare(0, 1)
    assert found.difference.low == pytest.approx(-error_rates.difference.high)
    assert found.better == error_rates.better


def test_other_utterances_are_refused():
    one = Alignments(("a", "b"), ("CC", "C"))
    for other, message in (
        (Alignments(("a", "c"), ("CC", "C")), "only one has 'b'"),
        (Alignments(("a", "b"), ("CC", "CI")), None),
        (Alignments(("a", "b"), ("CC", "CD")), "of 'b' has 1 words for one and 2 for the other"),
    ):
        if message is None:
            ComparedSystems([[one], [other]])
            continue
        with pytest.raises(HJPruneError, match=message):
            ComparedSystems([[one], [other]])
    with pytest.raises(HJPruneError, match="accuracy needs references of one word"):
        ComparedSystems([[one], [one]], accuracy=True)


def test_scipy_is_asked_for(monkeypatch):
    monkeypatch.setitem(sys.modules, "scipy", None)
    one = Alignments(("a", "b"), ("C", "S"))
    with pytest.raises(HJPruneError, match=r"intervals and p-values need scipy .*; pip install"):
        ComparedSystems([[one], [one]]).estimate(0)


@pytest.mark.parametrize(("number", "pairs"), [(3, 3), (6, 15), (7, 6)])
def test_few_models_are_compared_with_one_another(number, pairs):
    rng = random.Random(8)
    lengths = some_lengths(rng, 20)
    models = [
        DecodedModel(
            f"m{place}", Path("exp"), "decode", 1.0, 1.0, 0.0, {},
            {"test": system(rng, lengths, 0.2)}, DecodingTime(), {},
        )
        for place in range(number)
    ]  # fmt: skip
    section = comparison_section(models, METRICS["wer"])
    rows = [line for line in section.splitlines() if line.startswith("|test|")]
    assert len(rows) == pairs
    assert ("|test|m1|m2|" in section) == (number < 7)
    assert ("`hjprune compare` compares any other" in section) == (number == 7)


@pytest.fixture
def experiments(tmp_path: Path) -> Path:
    """Experiments with their report, which has written results.json."""
    write_decoded(tmp_path / "ft", SETS, 0.05, n=30)
    write_decoded(tmp_path / "final", SETS, 0.12, n=30)
    write_summary(tmp_path / "prune/summary.json")
    report.main(
        [
            f"--output={tmp_path}/final/RESULTS.md",
            f"--json={tmp_path}/final/results.json",
            f"--prune_exp={tmp_path}/prune",
            f"--summary={tmp_path}/prune/summary.json",
            f"--model=unpruned={tmp_path}/ft",
            f"--model=auto={tmp_path}/final",
            "--decode_tag=decode_asr",
            "--test_sets=test_clean test_other",
        ]
    )
    return tmp_path


def compared(capsys, *arguments: object) -> dict:
    capsys.readouterr()
    compare.main([*map(str, arguments), "--json"])
    return json.loads(capsys.readouterr().out)


def test_the_report_compares_all_pairs(experiments, capsys):
    text = (experiments / "final/RESULTS.md").read_text()
    section = text.split("## Significance\n")[1].split("![")[0]
    found = compared(capsys, experiments / "ft/decode_asr", experiments / "final/decode_asr")
    assert found["test"] == "MAPSSWE" and list(found["test_sets"]) == SETS
    for name, comparison in found["test_sets"].items():
        for place, model in (("first", "unpruned"), ("second", "HJ-Pruning-MAC 40 %")):
            e = comparison[place]
            cell = f"{e['value']:.2f} [{e['low']:.2f}, {e['high']:.2f}]"
            assert cell in next(x for x in section.splitlines() if x.startswith(f"|{model}|"))
        d = comparison["difference"]
        row = f"|{name}|unpruned|HJ-Pruning-MAC 40 %|{d['value']:+.2f} [{d['low']:+.2f}, "
        assert row in section
        assert d["low"] > 0 and comparison["better"] < 0.025 and comparison["p_value"] < 0.05
    assert section.count(" *|") == 2
    assert "|model|test_clean WER (%)|test_other WER (%)|" in section


def test_results_json_compares_like_the_experiments(experiments, capsys):
    path = experiments / "final/results.json"
    record = json.loads(path.read_text())
    kept = record["models"][1]["alignments"]["test_other"]
    counts = record["models"][1]["scores"]["wer"]["test_other"]
    assert sum(letter in "SDI" for letter in kept) == (
        counts["substitutions"] + counts["deletions"] + counts["insertions"]
    )
    assert sum(letter in "CSD" for letter in kept) == counts["words"]
    assert len(record["utterances"]["test_other"].split()) == len(kept.split()) == 30
    whole = compared(capsys, experiments / "ft/decode_asr", experiments / "final/decode_asr")
    for first, second in (
        (f"{path}:0", path),
        (f"{path}:unpruned", f"{experiments / 'final'}:HJ-Pruning-MAC 40 %"),
        (experiments / "ft/decode_asr", f"{path.parent}:1"),
    ):
        assert compared(capsys, first, second)["test_sets"] == whole["test_sets"]
    only = compared(capsys, f"{path}:0", path, "--test_set", "test_other")
    assert only["test_sets"] == {"test_other": whole["test_sets"]["test_other"]}
    compare.main([f"{path}:0", str(path)])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"A: unpruned ({path.parent})"
    assert lines[3].startswith("set") and lines[5].startswith("test_clean")


def test_compare_names_what_is_wrong(experiments):
    path = experiments / "final/results.json"
    record = json.loads(path.read_text())
    ft = experiments / "ft/decode_asr"
    for first, second, more, message in (
        (ft, experiments / "ft", [], "neither scored sets"),
        (ft, experiments / "nothing", [], r"nothing does not exist; name the directory"),
        (ft, f"{path}:2", [], r"has no one model '2'; append :NUMBER of one of 0 'unpruned', 1 "),
        (ft, path, ["--test_set", "test_far"], "--test_set has test_far, but A and B were both"),
        (ft, path, ["--metric", "accuracy"], "accuracy needs references of one word"),
    ):
        with pytest.raises(HJPruneError, match=message):
            compare.main([str(first), str(second), *more])

    def broken(name: str, change) -> Path:
        copy = json.loads(json.dumps(record))
        change(copy)
        (experiments / name).write_text(json.dumps(copy))
        return experiments / name

    old = broken("old.json", lambda r: [model.pop("alignments") for model in r["models"]])
    with pytest.raises(HJPruneError, match="from before alignments were kept; rerun stage 7"):
        compare.main([str(ft), str(old)])
    other = broken(
        "other.json",
        lambda r: r["utterances"].update(
            test_other=r["utterances"]["test_other"].replace("0007", "0077")
        ),
    )
    with pytest.raises(HJPruneError, match=r"test_other: .* other utterances .*'s3-s3-0007'"):
        compare.main([str(ft), str(other)])
    cut = broken("cut.json", lambda r: r["models"][1]["alignments"].update(test_clean="CC"))
    with pytest.raises(HJPruneError, match="there are 30 utterances and alignments of 1"):
        compare.main([str(ft), str(cut)])
    several = broken("several.json", lambda r: r["models"].append(r["models"][1]))
    with pytest.raises(HJPruneError, match="has several compact models; append :NUMBER"):
        compare.main([str(ft), str(several)])
    with pytest.raises(HJPruneError, match=r"is no results\.json of stage 7"):
        compare.main([str(ft), str(broken("empty.json", lambda r: r.clear()))])
