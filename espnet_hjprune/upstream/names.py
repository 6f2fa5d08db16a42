"""Which upstream names can be read, found without importing s3prl.

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
from espnet_hjprune.upstream.families import FAMILIES, FORMS
from espnet_hjprune.upstream.form import Form

# Loaded by transformers alone, also those that s3prl does not have.
HUGGING_FACE_NAMES = {
    name: family.hugging_face.key
    for family in FAMILIES
    if family.hugging_face is not None
    for name in (family.hugging_face.key, family.hugging_face.names)
}


@cache
def upstream_names() -> dict[str, str]:
    """Every upstream name with the key of its form, or with s3prl's package if there is none.

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
    return names | HUGGING_FACE_NAMES


def find_form(name: str) -> Form:
    """Tell in which form the checkpoints of an upstream are, without loading it.

    Raises:
        HJPruneError: s3prl has no such upstream or is not installed, or the family of the
            upstream cannot be pruned.
    """
    if name in HUGGING_FACE_NAMES:
        return FORMS[HUGGING_FACE_NAMES[name]]
    names = upstream_names()
    supported = ", ".join(form.names for form in FORMS.values())
    if name not in names:
        known = [known for known, key in names.items() if key in FORMS]
        close = difflib.get_close_matches(name, known, n=3)
        hint = f"close names are {', '.join(close)}" if close else f"supported are {supported}"
        raise HJPruneError(f"s3prl has no upstream called {name}; {hint}")
    if names[name] not in FORMS:
        raise HJPruneError(f"the upstream {name} cannot be pruned; supported are {supported}")
    return FORMS[names[name]]
