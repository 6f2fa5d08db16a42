"""Which share of a model's cost a pruning removes, in the one form that all of the project takes.

A target is one share for the whole encoder, as ``0.4``, or, with the criterion ``sepsize``, one
for each of its parts, as ``cnn=0.6 transformer=0.3``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from itertools import pairwise
from typing import Any, Literal, TypeAlias, get_args

from espnet_hjprune.errors import HJPruneError

# The parts of an encoder: convolutional feature extractor, and all that follows it.
Part = Literal["cnn", "transformer"]
PARTS: tuple[Part, ...] = get_args(Part)
# The criterion whose targets are separate ones for the parts.
SEPARATE = "sepsize"


@dataclass(frozen=True)
class Target:
    """A target; ``str(target)`` is the text that :meth:`parse` reads.

    Attributes:
        shares: one share for the whole encoder, or one for each of :data:`PARTS`; from 0, where
            nothing is removed, to below 1.

    Raises:
        HJPruneError: another number of shares, or one out of range.

    Example:
        >>> str(Target.parse({"transformer": 0.3, "cnn": 0.6}))
        'cnn=0.6 transformer=0.3'
        >>> Target.parse("0.40") == Target((0.4,))
        True
    """

    shares: tuple[float, ...]

    def __post_init__(self) -> None:
        """Check number and range of the shares."""
        if len(self.shares) not in (1, len(PARTS)):
            raise HJPruneError(
                f"a target has one share, or one for each of {', '.join(PARTS)}, "
                f"not {len(self.shares)}"
            )
        for name, share in self.by_name().items():
            _share(share, _label("target", name))

    @classmethod
    def parse(
        cls, value: TargetLike, option: str = "target", criterion: str | None = None
    ) -> Target:
        """Read a target.

        Args:
            value: the target, its text, a number, or a mapping with a share for every part.
            option: what errors call it.
            criterion: refuse a target of the other form than this criterion has.

        Raises:
            HJPruneError: ``value`` is no target, or has another form than the criterion's.
        """
        given: dict[str, Any] = _by_name(value)
        separate = set(given) != {""}
        because = f" when the criterion is {criterion}" if criterion else ""
        if criterion is not None and criterion != SEPARATE and separate:
            raise HJPruneError(f"{option} is one number{because}, not '{value}'")
        if (separate or criterion == SEPARATE) and set(given) != set(PARTS):
            raise HJPruneError(
                f"{option} needs a value for {' and one for '.join(PARTS)}{because}, as in "
                f"'cnn=0.6 transformer=0.3', not '{value}'"
            )
        names = PARTS if separate else ("",)
        return cls(tuple(_share(given[name], _label(option, name)) for name in names))

    @property
    def separate(self) -> bool:
        """Whether every part has a share of its own."""
        return len(self.shares) > 1

    def by_name(self) -> dict[str, float]:
        """Shares by part; that of the whole encoder has an empty name."""
        return dict(zip(PARTS if self.separate else ("",), self.shares, strict=True))

    def __str__(self) -> str:
        """``0.4`` or ``cnn=0.6 transformer=0.3``."""
        # Exact, and without an exponent, which the recipes' shell does not read.
        texts = [f"{Decimal(repr(share)):f}" if share else "0" for share in self.shares]
        if not self.separate:
            return texts[0]
        return " ".join(f"{part}={text}" for part, text in zip(PARTS, texts, strict=True))


# What stands for a target: itself, its text, or what YAML and JSON make of a number or a mapping.
TargetLike: TypeAlias = Target | str | float | Mapping[str, float]


def parse_targets(value: TargetLike, option: str = "targets") -> tuple[Target, ...]:
    """Read one target or, as in ``0.2 0.3 0.4``, several rising ones for the whole encoder.

    Args:
        value: text of the targets, or one target in any form.
        option: what errors call it.

    Raises:
        HJPruneError: there is no target, one is none, or they do not rise.
    """
    if not isinstance(value, str) or "=" in value:
        return (Target.parse(value, option),)
    targets = tuple(Target.parse(word, option) for word in value.split())
    if not targets:
        raise HJPruneError(f"{option} is empty; give a share between 0 and 1")
    if any(after.shares <= before.shares for before, after in pairwise(targets)):
        raise HJPruneError(f"{option} is '{value}', which does not rise")
    return targets


def _by_name(value: Any) -> dict[str, Any]:
    """What is given for every part, or for the empty name, unchecked."""
    if isinstance(value, Target):
        return dict(value.by_name())
    if isinstance(value, Mapping):
        return dict(value)
    if not isinstance(value, str) or "=" not in value:
        return {"": value}
    pairs = [word.partition("=") for word in value.split()]
    # A part that is named twice has no value that could be meant.
    names = [name for name, _, _ in pairs]
    return {name: share for name, _, share in pairs if names.count(name) == 1}


def _label(option: str, name: str) -> str:
    """What errors call a share."""
    return f"{option}.{name}" if name else option


def _share(value: Any, label: str) -> float:
    """Check a share and turn it into a number."""
    try:
        share = float(value)
    except (TypeError, ValueError):
        share = -1.0
    if not 0 <= share < 1:
        raise HJPruneError(f"{label} is {value}; it must lie between 0 and 1")
    return share
