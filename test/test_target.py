"""Targets: their text, what YAML makes of them, and what is refused."""

import json

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from espnet_hjprune.errors import HJPruneError
from espnet_hjprune.target import PARTS, Target, parse_targets

shares = st.floats(0, 1, exclude_min=True, exclude_max=True)
targets = st.builds(Target, st.one_of(st.tuples(shares), st.tuples(*[shares for _ in PARTS])))


@given(targets)
def test_text_is_read_back(target):
    text = str(target)
    assert Target.parse(text) == target and hash(Target.parse(text)) == hash(target)
    assert str(Target.parse(text)) == text
    assert "e" not in text.replace("transformer", "")
    assert parse_targets(text) == parse_targets(target) == (target,)


@given(targets)
def test_numbers_and_mappings_are_read(target):
    value = target.by_name() if target.separate else target.shares[0]
    for written in (value, yaml.safe_load(yaml.safe_dump(value)), json.loads(json.dumps(value))):
        assert Target.parse(written) == target
    assert Target.parse(target, criterion="sepsize" if target.separate else "macs") == target


@given(st.lists(shares, min_size=1, max_size=5, unique=True))
def test_rising_targets_are_read_back(values):
    rising = tuple(Target((share,)) for share in sorted(values))
    assert parse_targets(" ".join(map(str, rising))) == rising
    if len(values) > 1:
        with pytest.raises(HJPruneError, match="which does not rise"):
            parse_targets(" ".join(map(str, reversed(rising))))


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("0.4", "0.4"),
        (".40", "0.4"),
        (" 4e-1 ", "0.4"),
        ("0.00001", "0.00001"),
        (0.3, "0.3"),
        ("cnn=.6 transformer=0.30", "cnn=0.6 transformer=0.3"),
        ("transformer=0.3  cnn=0.6", "cnn=0.6 transformer=0.3"),
        ({"transformer": 0.3, "cnn": "0.6"}, "cnn=0.6 transformer=0.3"),
    ],
)
def test_one_text_for_one_target(text, normal):
    assert str(Target.parse(text)) == normal


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("", "option is ; it must lie between 0 and 1"),
        ("half", "option is half; it must lie between 0 and 1"),
        ("-0.1", "option is -0.1; it must lie between 0 and 1"),
        (1, "option is 1; it must lie between 0 and 1"),
        (True, "option is True; it must lie between 0 and 1"),
        (None, "option is None; it must lie between 0 and 1"),
        ([0.2, 0.3], r"option is \[0\.2, 0\.3\]; it must lie between 0 and 1"),
        ("nan", "option is nan; it must lie between 0 and 1"),
        ("0.2 0.3", "option is 0.2 0.3; it must lie between 0 and 1"),
        ("cnn=0.6", "option needs a value for cnn and one for transformer, as in"),
        ("cnn=0.6 0.3", "needs a value for cnn and one for transformer"),
        ("cnn=0.6 transformer=0.3 head=0.1", "needs a value for cnn and one for transformer"),
        ("cnn=0.6 cnn=0.7 transformer=0.3", "needs a value for cnn and one for transformer"),
        ({}, "needs a value for cnn and one for transformer"),
        ("cnn=0.6 transformer=", "option.transformer is ; it must lie between 0 and 1"),
        ({"cnn": 2, "transformer": 0.3}, "option.cnn is 2; it must lie between 0 and 1"),
    ],
)
def test_what_is_no_target(value, message):
    with pytest.raises(HJPruneError, match=message):
        Target.parse(value, "option")


def test_the_criterion_decides_the_form():
    with pytest.raises(HJPruneError, match="x is one number when the criterion is macs"):
        Target.parse("cnn=0.6 transformer=0.3", "x", "macs")
    with pytest.raises(HJPruneError, match="and one for transformer when the criterion is sepsize"):
        Target.parse("0.4", "x", "sepsize")


@pytest.mark.parametrize(
    ("value", "message"),
    [("  ", "is empty"), ("0.2 0.2", "does not rise"), ("0.2 x", "is x"), (1.5, "is 1.5")],
)
def test_what_are_no_targets(value, message):
    with pytest.raises(HJPruneError, match=message):
        parse_targets(value)


@pytest.mark.parametrize("wrong", [(), (0.1, 0.2, 0.3), (1.0,), (0.5, -0.1)])
def test_shares_are_checked(wrong):
    with pytest.raises(HJPruneError, match=r"a target has one share|must lie between 0 and 1"):
        Target(wrong)
