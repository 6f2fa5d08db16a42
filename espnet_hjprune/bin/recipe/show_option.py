"""Print the value of an option in a YAML configuration, as the recipes' options take it."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from espnet_hjprune.bin.cli import run_command
from espnet_hjprune.config_file import read_config
from espnet_hjprune.errors import HJPruneError
from espnet_hjprune.target import Target


def main(argv: Sequence[str] | None = None) -> None:
    """Print a value; a mapping is a target with a share for each part.

    Raises:
        HJPruneError: the configuration is missing or lacks the option, or a mapping is no target.
    """
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--config", type=Path, required=True, help="the YAML file")
    parser.add_argument("--option", required=True, help="names from the outside in, with dots")
    args = parser.parse_args(argv)
    value: Any = read_config(args.config)
    for name in args.option.split("."):
        if not isinstance(value, dict) or name not in value:
            raise HJPruneError(f"the configuration {args.config} has no option {args.option}")
        value = value[name]
    print(Target.parse(value, args.option) if isinstance(value, dict) else value)


if __name__ == "__main__":
    run_command(main)
