"""Other packages that take part in a benchmark where they can be imported."""

from __future__ import annotations

import importlib
import logging
from collections.abc import Callable, Sequence

from espnet_hjprune.benchmark.modes import reason
from espnet_hjprune.errors import HJPruneError
from espnet_hjprune.upstream.families import family_of

# Other packages, and the distribution that has each.
INSTALLED_BY = {
    "s3prl": "a version of s3prl",
    "huggingface": "a version of transformers",
    "torchaudio": "a version of torchaudio",
}
PEERS = tuple(INSTALLED_BY)
# Those that no training step is compared on.
INFERENCE_PEERS = ("torchaudio",)
# What imports of packages raise that do not fit to torch, to each other or to the system.
IMPORT_ERRORS = (ImportError, AttributeError, OSError, RuntimeError)


def usable_peers(peers: Sequence[str], load: Callable[[str], object], asked_for: bool) -> list[str]:
    """Those that can be imported; it is found out before anything is measured.

    Args:
        peers: of :data:`PEERS`.
        load: imports what a peer needs, and does nothing else.
        asked_for: whether the user has named them; what is only usual is left out with a warning.

    Raises:
        HJPruneError: one that was asked for cannot be imported.
    """
    usable = []
    for peer in peers:
        try:
            load(peer)
        except IMPORT_ERRORS as error:
            if asked_for:
                raise HJPruneError(
                    f"--peers has {peer}, which cannot be imported ({reason(error)}); install "
                    f"{INSTALLED_BY[peer]} that fits to this torch, or leave it out of --peers"
                ) from None
            logging.warning(
                "%s is left out of the comparison, as it cannot be imported: %s",
                peer,
                reason(error),
            )
        else:
            usable.append(peer)
    return usable


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
