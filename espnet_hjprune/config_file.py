"""Reading YAML configurations.

Numbers are those of YAML 1.2: ``3e-4`` is one. PyYAML, which reads YAML 1.1, makes a text of it, as
it does of all exponents without a dot before them or a sign.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from espnet_hjprune.errors import HJPruneError

# A floating-point number of YAML 1.2's core schema, but infinity and NaN.
NUMBER = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_NUMBER_TAG = "!number"
_TEXT_TAG = "tag:yaml.org,2002:str"


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader with the numbers of YAML 1.2, where a number may be meant.

    Names of options stay texts, and so do the items of a list that has other texts, such as
    tokens: PyYAML writes them without quotes.
    """

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        """Compose a mapping."""
        node = super().compose_mapping_node(anchor)
        for key, _ in node.value:
            if key.tag == _NUMBER_TAG:
                key.tag = _TEXT_TAG
        return node

    def compose_sequence_node(self, anchor: Any) -> yaml.SequenceNode:
        """Compose a list."""
        node = super().compose_sequence_node(anchor)
        if any(item.tag == _TEXT_TAG for item in node.value):
            for item in node.value:
                if item.tag == _NUMBER_TAG:
                    item.tag = _TEXT_TAG
        return node


def _number(loader: Any, node: Any) -> float:
    return float(loader.construct_scalar(node))


# What PyYAML takes for a number has been found before.
_Loader.add_implicit_resolver(
    _NUMBER_TAG, re.compile(f"(?:{NUMBER.pattern})$"), list("-+.0123456789")
)
_Loader.add_constructor(_NUMBER_TAG, _number)


def parse_config(text: str) -> Any:
    """Read YAML.

    Raises:
        yaml.YAMLError: it is none.
    """
    return yaml.load(text, Loader=_Loader)


def read_config(path: str | Path) -> dict[str, Any]:
    """Read a configuration of ESPnet.

    Raises:
        HJPruneError: the file is missing or is no YAML mapping.
    """
    try:
        config = parse_config(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise HJPruneError(f"the configuration {path} does not exist") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())
        raise HJPruneError(f"the configuration {path} is no YAML: {reason}") from None
    if not isinstance(config, dict):
        raise HJPruneError(f"the configuration {path} has no 'option: value' lines")
    return config


def with_numbers(value: Any) -> Any:
    """What PyYAML has read, with numbers where it has made texts of them, also within.

    For options of which none is a text that looks like a number.
    """
    if isinstance(value, str) and NUMBER.fullmatch(value):
        return float(value)
    if isinstance(value, Mapping):
        return {name: with_numbers(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(with_numbers(inner) for inner in value)
    return value
