"""Other packages that take part in a benchmark where they can be imported."""

from __future__ import annotations

import importlib
import logging
from collections.abc import Callable

from espnet_hjprune.benchmark.modes import reason
from espnet_hjprune.upstream.families import family_of

PEERS = ("s3prl", "huggingface", "torchaudio")
# What imports of packages raise that do not fit to torch, to each other or to the system.
IMPORT_ERRORS = (ImportError, AttributeError, OSError, RuntimeError)


def can_import(package: str, load: Callable[[], object]) -> bool:
    """Whether a package can be imported; where not, a warning says why and that it is left out.

    Args:
        package: what the warning calls it.
        load: imports it, and does nothing else.
    """
    try:
        load()
    except IMPORT_ERRORS as error:
        logging.warning(
            "%s is left out of the comparison, as it cannot be imported: %s", package, reason(error)
        )
        return False
    return True


def import_peer(peer: str, upstream: str) -> None:
    """Import what the model of an upstream needs of a package.

    Args:
        peer: one of :data:`PEERS`.
        upstream: a named architecture.

    Raises:
        Exception: as the package does, mostly one of :data:`IMPORT_ERRORS`.
    """
    family = family_of(upstream)
    if peer == "s3prl":
        importlib.import_module(f"s3prl.upstream.{family.s3prl.package}.hubconf")
    elif peer == "huggingface":
        transformers = importlib.import_module("transformers")
        if family.hugging_face is not None:
            getattr(transformers, family.hugging_face.model_class)
    else:
        importlib.import_module("torchaudio.models")
