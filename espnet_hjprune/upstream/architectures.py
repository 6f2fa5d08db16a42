"""Published architectures by name, for counting and for random models."""

from __future__ import annotations

from collections.abc import Callable

from espnet_hjprune.errors import HJPruneError
from espnet_hjprune.nn.config import EncoderConfig
from espnet_hjprune.upstream.families import FAMILIES

_IN_ORDER = [item for family in FAMILIES for item in family.architectures.items()]
# The published ones, then those of the recipes' mini corpora.
ARCHITECTURES: dict[str, Callable[[], EncoderConfig]] = dict(
    sorted(_IN_ORDER, key=lambda item: item[0].endswith("_mini"))
)


def architecture(name: str) -> EncoderConfig:
    """Return the configuration of a named architecture.

    Raises:
        HJPruneError: an unknown name, with the known ones.
    """
    if name not in ARCHITECTURES:
        raise HJPruneError(
            f"no architecture is called {name}; known are {', '.join(ARCHITECTURES)}"
        )
    return ARCHITECTURES[name]()
