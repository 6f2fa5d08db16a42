"""The registry of families: one file each, and this list of them."""

from __future__ import annotations

from espnet_hjprune.upstream.families import (
    data2vec,
    distilhubert,
    hubert,
    lighthubert,
    unispeech_sat,
    wav2vec2,
    wavlm,
)
from espnet_hjprune.upstream.family import Family
from espnet_hjprune.upstream.form import Form

FAMILIES: tuple[Family, ...] = (
    wav2vec2.FAMILY,
    hubert.FAMILY,
    wavlm.FAMILY,
    unispeech_sat.FAMILY,
    data2vec.FAMILY,
    distilhubert.FAMILY,
    lighthubert.FAMILY,
)
# Every form of checkpoint by its key, those of s3prl first.
FORMS: dict[str, Form] = {family.s3prl.key: family.s3prl for family in FAMILIES} | {
    family.hugging_face.key: family.hugging_face
    for family in FAMILIES
    if family.hugging_face is not None
}


def family_of(architecture: str) -> Family:
    """The family of a named architecture.

    Raises:
        KeyError: there is no such architecture.
    """
    for family in FAMILIES:
        if architecture in family.architectures:
            return family
    raise KeyError(architecture)
