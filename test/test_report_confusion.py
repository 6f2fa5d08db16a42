"""Classification reports: confusion counts against scikit-learn, tables, picture, agreement."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.image import imread
from report_fixtures import write_summary
from sklearn.metrics import accuracy_score, f1_score

from espnet_hjprune.bin.recipe import report
from espnet_hjprune.data.datadir import read_table, write_table
from espnet_hjprune.errors import HJPruneError
from espnet_hjprune.report.figures import plot_confusion
from espnet_hjprune.scoring.confusion import (
    NOTHING,
    Confusion,
    confused_table,
    count_confusion,
    read_confusion,
)
from espnet_hjprune.scoring.sclite import score_set, scoring_tokenizer

label = st.sampled_from(["alarm_set", "alarm_remove", "play_music", "iot_coffee"])


@given(st.lists(st.tuples(label, label), min_size=1, max_size=40))
def test_figures_are_scikit_learns(pairs: list[tuple[str, str]]) -> None:
    reference = {str(number): true for number, (true, _) in enumerate(pairs)}
    hypothesis = {str(number): predicted for number, (_, predicted) in enumerate(pairs)}
    confusion = count_confusion(reference, hypothesis)
    true, predicted = zip(*pairs, strict=True)
    assert confusion.accuracy == pytest.approx(100 * accuracy_score(true, predicted))
    expected = f1_score(true, predicted, labels=sorted(set(true)), average="macro")
    assert confusion.macro_f1 == pytest.approx(100 * expected)
    confused = confusion.most_confused(100)
    assert sum(count for _, _, count in confused) == sum(t != p for t, p in pairs)
    assert [count for *_, count in confused] == sorted((c for *_, c in confused), reverse=True)
    for first, second, count in confused:
        there, back = pairs.count((first, second)), pairs.count((second, first))
        assert count == there + back and there >= back


def test_lacking_and_empty_labels_are_wrong(tmp_path: Path) -> None:
    write_table(tmp_path / "ref", {"a": "x", "b": "x", "c": "y"})
    write_table(tmp_path / "hyp", {"a": "x", "b": ""})
    confusion = read_confusion(tmp_path / "ref", tmp_path / "hyp")
    assert (confusion.total, confusion.correct) == (3, 1)
    assert confusion.counts["y", NOTHING] == 1
    rows = confused_table(confusion, 1)
    assert rows[1] == [f"x, {NOTHING}", "1", "1", "0"]


def test_labels_follow_sclites_rule_of_case(tmp_path: Path) -> None:
    reference = {"a": "Play_Music", "b": "play_music", "c": "\u00c9t\u00e9", "d": "\u00e9t\u00e9"}
    hypothesis = {"a": "play_music", "b": "PLAY_MUSIC", "c": "\u00c9T\u00e9", "d": "\u00c9t\u00e9"}
    confusion = count_confusion(reference, hypothesis)
    assert confusion.counts == {
        ("Play_Music", "Play_Music"): 2,
        ("\u00c9t\u00e9", "\u00c9t\u00e9"): 1,
        ("\u00e9t\u00e9", "\u00c9t\u00e9"): 1,
    }
    speakers = dict.fromkeys(reference, "s")
    counts = score_set(reference, hypothesis, speakers, scoring_tokenizer("wer"), tmp_path)
    assert (counts.correct, counts.errors) == (confusion.correct, 1)


def test_texts_are_no_labels() -> None:
    with pytest.raises(HJPruneError, match="'TWO WORDS', not one label; use --metric wer"):
        count_confusion({"a": "TWO WORDS"}, {})
    with pytest.raises(HJPruneError, match="no utterances"):
        count_confusion({}, {})


@pytest.mark.parametrize("size", [2, 10, 60])
def test_picture_has_room_for_every_label(size: int, tmp_path: Path) -> None:
    rng = random.Random(size)
    labels = [f"scenario{number // 4}_action{number}" for number in range(size)]
    counts = Counter({(name, name): rng.randint(20, 90) for name in labels})
    for _ in range(3 * size):
        counts[rng.choice(labels), rng.choice(labels)] += 1
    pixels = imread(plot_confusion(Confusion(counts), "test", tmp_path / "c.png"))
    # A row needs the height of its name, 7.5 points at 160 dots per inch.
    assert min(pixels.shape[:2]) > size * 7.5 / 72 * 160
    blue, orange = (
        ((pixels[..., first] - pixels[..., last]) > 0.2).mean() for first, last in ((2, 0), (0, 2))
    )
    assert blue > 0.002 and orange > 0.001


def decoded_labels(exp: Path, labels: dict[str, str], error_rate: float) -> None:
    """Leave what stage 7 leaves of one decoded set."""
    rng = random.Random(int(1000 * error_rate))
    names = sorted(set(labels.values()))
    hypothesis = {
        utt: rng.choice(names) if rng.random() < error_rate else name
        for utt, name in labels.items()
    }
    decoded = exp / "decode_slu/test"
    write_table(decoded / "text", hypothesis)
    speakers = dict.fromkeys(labels, "s")
    score_set(labels, hypothesis, speakers, scoring_tokenizer("wer"), decoded / "score_wer")


@pytest.fixture
def experiments(tmp_path: Path) -> Path:
    """Data and experiments of a classification."""
    rng = random.Random(0)
    names = ["alarm_set", "alarm_remove", "play_music", "weather_query"]
    labels = {f"s-{number:03d}": rng.choice(names) for number in range(120)}
    write_table(tmp_path / "raw/test/text", labels)
    decoded_labels(tmp_path / "ft", labels, 0.2)
    decoded_labels(tmp_path / "final", labels, 0.4)
    write_summary(tmp_path / "prune/compact/summary.json", target=0.5)
    return tmp_path


def options(exp: Path) -> list[str]:
    """Options of bin.report."""
    return [
        f"--output={exp}/RESULTS.md",
        f"--prune_exp={exp}/prune",
        f"--summary={exp}/prune/compact/summary.json",
        f"--model=unpruned={exp}/ft",
        f"--model=auto={exp}/final",
        "--decode_tag=decode_slu",
        "--test_sets=test",
        "--metric=accuracy",
    ]


def test_report(experiments: Path) -> None:
    report.main([*options(experiments), f"--data_dir={experiments}/raw"])
    text = (experiments / "RESULTS.md").read_text()
    assert "|dataset|utterances|labels|accuracy (%)|macro F1 (%)|" in text
    for name in ("ft", "final"):
        confusion = read_confusion(
            experiments / "raw/test/text", experiments / name / "decode_slu/test/text"
        )
        assert f"|test|120|4|{confusion.accuracy:.2f}|{confusion.macro_f1:.2f}|" in text
        row = next(line for line in text.splitlines() if line.startswith("|unpruned|74.1"))
        assert name == "final" or row.endswith(f"|{confusion.accuracy:.2f}|")
        first, second, count = confusion.most_confused()[0]
        assert f"|{first}, {second}|{count}|" in text
        assert (experiments / name / "images/confusion_test.png").stat().st_size > 10_000
        assert f"]({name}/images/confusion_test.png)" in text
    row = next(line for line in text.splitlines() if line.startswith("|test|unpruned|HJ-"))
    first, second = (
        read_confusion(
            experiments / "raw/test/text", experiments / name / "decode_slu/test/text"
        ).accuracy
        for name in ("ft", "final")
    )
    # Of 120 utterances, a difference of ten in accuracy may be chance.
    assert row.split("|")[4].startswith(f"{second - first:+.2f} [-") and " *|" not in row
    assert "|resamples with the second better|p (McNemar's test)|" in text


def test_a_count_that_sclite_does_not_share_is_an_error(experiments: Path) -> None:
    decoded = experiments / "final/decode_slu/test"
    true = read_table(experiments / "raw/test/text")
    labels = read_table(decoded / "text")
    right = next(utt_id for utt_id, label in labels.items() if label == true[utt_id])
    write_table(decoded / "text", labels | {right: "something_else"})
    with pytest.raises(HJPruneError, match=r"sclite counts \d+ errors in 120 utterances"):
        report.main([*options(experiments), f"--data_dir={experiments}/raw"])
    assert not (experiments / "RESULTS.md").exists()


def test_accuracy_needs_the_true_labels(experiments: Path) -> None:
    with pytest.raises(HJPruneError, match="--metric accuracy needs --data_dir"):
        report.main(options(experiments))
