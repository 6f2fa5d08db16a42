"""Say how far the gates of a pruning are from their target, once it has ended."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path

from espnet_hjprune.bin.cli import run_command
from espnet_hjprune.config_file import read_config


def main(argv: Sequence[str] | None = None) -> None:
    """Log a line for every model, and a warning where its gates are off the target.

    Raises:
        HJPruneError: a file is missing or is no gated model.
    """
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--train_config", required=True, help="config.yaml of the gated model")
    parser.add_argument("--model_file", required=True, nargs="+", help="weights at each target")
    args = parser.parse_args(argv)
    config = read_config(args.train_config)

    from espnet_hjprune.model.espnet_model import load_gated_model
    from espnet_hjprune.model.target_distance import describe, target_distances

    for file in args.model_file:
        pruner = load_gated_model(config, file).upstream.pruner
        distances = [] if pruner is None else target_distances(pruner)
        name = Path(file).name
        if not any(distance.is_notable for distance in distances):
            logging.info("Gates of %s: %s", name, ", ".join(map(str, distances)))
            continue
        refused = ""
        if any(distance.is_far for distance in distances):
            refused = "; stage 5 refuses them without --allow_off_target true"
        logging.warning(
            "The gates of %s are off their target: %s%s", name, describe(distances), refused
        )


if __name__ == "__main__":
    run_command(main)
