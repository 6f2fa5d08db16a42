"""Print the value of an option in a YAML configuration, as the recipes' options take it."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from espnet_hjprune.bin.cli import run_command
from espnet_hjprune.config_file import read_config
from espnet_hjprune.errors import HJPruneError


def main(argv: Sequence[str] | None = None) -> None:
    """Print a value, or ``key=value`` pairs for a mapping.

    Raises:
        HJPruneError: The configuration is missing or lacks the option.
    """
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--config", type=Path, required=True, help="the YAML file")
    parser.add_argument("--option", required=True, help="names from the outside in, with dots")
    args = parser.parse_args(argv)
    value = read_config(args.config)
    for name in args.option.split("."):
        if not isinstance(value, dict) or name not in value:
            raise HJPruneError(f"the configuration {args.config} has no option {args.option}")
        value = value[name]
    if isinstance(value, dict):
        value = " ".join(f"{key}={item}" for key, item in value.items())
    print(value)


if __name__ == "__main__":
    run_command(main)
