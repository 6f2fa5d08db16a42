"""Reading YAML configurations."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from espnet_hjprune.errors import HJPruneError


def read_config(path: str | Path) -> dict[str, Any]:
    """Read a configuration of ESPnet.

    Raises:
        HJPruneError: the file is missing or is no YAML mapping.
    """
    try:
        config = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise HJPruneError(f"the configuration {path} does not exist") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())
        raise HJPruneError(f"the configuration {path} is no YAML: {reason}") from None
    if not isinstance(config, dict):
        raise HJPruneError(f"the configuration {path} has no 'option: value' lines")
    return config
