"""What the synthetic corpora share: they are made once, and never replace a real corpus."""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from espnet_hjprune.atomic import replaced_directory, write_text
from espnet_hjprune.errors import HJPruneError

DESCRIPTION = "mini.json"


def _describe(config: Any) -> str:
    return json.dumps(asdict(config), indent=2, sort_keys=True) + "\n"


def is_made(corpus: Path, config: Any) -> bool:
    """Whether ``corpus`` is there already, made with this configuration (a dataclass).

    Raises:
        HJPruneError: the directory holds something else than a synthetic corpus.
    """
    stamp = corpus / DESCRIPTION
    if stamp.exists() and stamp.read_text(encoding="utf-8") == _describe(config):
        logging.info("%s is there already", corpus)
        return True
    if corpus.exists() and not stamp.exists():
        raise HJPruneError(f"{corpus} is no synthetic corpus; give another --output_dir")
    return False


@contextlib.contextmanager
def new_corpus(corpus: Path, config: Any) -> Iterator[Path]:
    """Give an empty directory to fill; it becomes ``corpus`` when all went well."""
    with replaced_directory(corpus) as directory:
        yield directory
        write_text(directory / DESCRIPTION, _describe(config))
