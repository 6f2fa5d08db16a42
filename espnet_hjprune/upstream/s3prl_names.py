"""Which s3prl upstreams can be pruned, found without importing s3prl.

``s3prl.hub`` imports every upstream, and with them packages that newer torchaudio releases broke.
So the names are read from the text of s3prl's ``hubconf.py`` files, and only the package that
defines a wanted name is imported.
"""

from __future__ import annotations

import difflib
import importlib.util
import re
from functools import cache
from pathlib import Path

from espnet_hjprune.errors import HJPruneError

# s3prl's packages, with the names that users know the families by.
FAMILIES = {
    "wav2vec2": "wav2vec2*, xlsr_53, xls_r_*",
    "hubert": "hubert*",
    "wavlm": "wavlm*",
    "unispeech_sat": "unispeech_sat*",
    "data2vec": "data2vec*",
    "distiller": "distilhubert*, distiller_*",
    "hf_wav2vec2": "hf_wav2vec2_custom",
    "hf_hubert": "hf_hubert_custom",
    "hf_wavlm": "hf_wavlm_custom",
}
# s3prl has no upstream for these; they are loaded like its other Hugging Face upstreams.
OWN_NAMES = {"hf_wavlm": "hf_wavlm", "hf_wavlm_custom": "hf_wavlm"}


@cache
def upstream_names() -> dict[str, str]:
    """Every upstream name with the package that defines it.

    Raises:
        HJPruneError: s3prl is not installed.
    """
    spec = importlib.util.find_spec("s3prl")
    if spec is None or not spec.submodule_search_locations:
        raise HJPruneError(
            "s3prl is not installed; install it (pip install s3prl) to load an upstream, or give "
            "a model directory whose configuration has the architecture"
        )
    names: dict[str, str] = {}
    for hubconf in sorted(
        Path(spec.submodule_search_locations[0], "upstream").glob("*/hubconf.py")
    ):
        text = hubconf.read_text(encoding="utf-8")
        for name in re.findall(r"^def ([a-z]\w*)\(", text, re.MULTILINE):
            names[name] = hubconf.parent.name
    return names | OWN_NAMES


def upstream_family(name: str) -> str:
    """Tell which supported family an s3prl upstream name belongs to, without loading it.

    Raises:
        HJPruneError: s3prl has no such upstream, or its family cannot be pruned.
    """
    names = upstream_names()
    supported = ", ".join(FAMILIES.values())
    if name not in names:
        known = [known for known, family in names.items() if family in FAMILIES]
        close = difflib.get_close_matches(name, known, n=3)
        hint = f"close names are {', '.join(close)}" if close else f"supported are {supported}"
        raise HJPruneError(f"s3prl has no upstream called {name}; {hint}")
    if names[name] not in FAMILIES:
        raise HJPruneError(f"the upstream {name} cannot be pruned; supported are {supported}")
    return names[name]
