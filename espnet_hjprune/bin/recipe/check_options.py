"""Check the options of a recipe and print all of them, completed, as ``name=value`` lines."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence

from espnet_hjprune.bin.cli import run_command
from espnet_hjprune.recipe.options import complete_options


def main(argv: Sequence[str] | None = None) -> None:
    """Parse ``name=value`` arguments and print the completed options.

    Raises:
        HJPruneError: an option is wrong, or a file that it names.
    """
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("options", nargs="+", metavar="NAME=VALUE", help="all of the recipe's")
    args = parser.parse_args(argv)
    options = dict(option.split("=", 1) for option in args.options)
    for name, value in complete_options(options, len(os.sched_getaffinity(0))).items():
        one_line = value.replace("\n", " ")
        print(f"{name}={one_line}")


if __name__ == "__main__":
    run_command(main)
