"""Building the dataclasses that hold options from what stands in a YAML file."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import fields
from typing import Any, TypeVar

from espnet_hjprune.errors import HJPruneError

T = TypeVar("T")
# The annotation of options that are a number or chosen where the program runs.
INT_OR_AUTO = "int | Literal['auto']"


def build_dataclass(cls: type[T], values: Mapping[str, Any] | None, option: str) -> T:
    """Build ``cls`` from a mapping and refuse names that it does not have.

    Raises:
        HJPruneError: an unknown key, named together with ``option`` and the known keys.
    """
    known = {f.name: str(f.type) for f in fields(cls)}  # type: ignore[arg-type]
    if values is not None and not isinstance(values, Mapping):
        raise HJPruneError(f"{option} is {values!r}, but it has options: {', '.join(known)}")
    values = dict(values or {})
    unknown = sorted(set(values) - set(known))
    if unknown:
        raise HJPruneError(
            f"{option} has no option {', '.join(unknown)}; it takes {', '.join(known)}"
        )
    for name, value in values.items():
        kind = known[name]
        # Annotations are texts where a module has postponed them, as all of ours have.
        if kind == "int" or kind == "float":
            values[name] = read_number(value, kind, f"{option}.{name}")
        elif kind == INT_OR_AUTO and value != "auto":
            try:
                values[name] = read_number(value, "int", f"{option}.{name}")
            except HJPruneError as error:
                raise HJPruneError(f"{error}; give one, or auto") from None
    return cls(**values)


def read_flag(value: Any, option: str) -> bool:
    """Read true or false.

    Raises:
        HJPruneError: it is something else.
    """
    if not isinstance(value, bool):
        raise HJPruneError(f"{option} is {value!r}, which is neither true nor false")
    return value


def read_number(value: Any, kind: str, option: str) -> Any:
    """Read a number; YAML takes ``2e-2``, which lacks the dot, for a text.

    Args:
        value: what YAML has.
        kind: ``int`` or ``float``.
        option: what errors call it.

    Raises:
        HJPruneError: it is no number of this kind.
    """
    try:
        if isinstance(value, bool):
            raise ValueError
        number = float(value)
        if not math.isfinite(number) or (kind == "int" and number != int(number)):
            raise ValueError
    except (TypeError, ValueError):
        what = "whole number" if kind == "int" else "number"
        raise HJPruneError(f"{option} is {value!r}, which is no {what}") from None
    return int(number) if kind == "int" else number
