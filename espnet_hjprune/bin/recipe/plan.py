"""Print the number of optimiser steps of a training as shell assignments."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from espnet_hjprune.bin.cli import run_command
from espnet_hjprune.config_file import read_config
from espnet_hjprune.data.tokens import TOKEN_TYPES
from espnet_hjprune.errors import HJPruneError
from espnet_hjprune.espnet.batches import count_batches
from espnet_hjprune.training.steps import complete_options, count_steps, training_options


def main(argv: Sequence[str] | None = None) -> None:
    """Parse the options and print the steps.

    Raises:
        HJPruneError: a file is missing, or there is no fixed number of steps.
    """
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--train_config", type=Path, required=True, help="ESPnet's YAML file")
    parser.add_argument("--shape_dir", type=Path, required=True, help="made by recipe.shapes")
    parser.add_argument("--token_type", choices=TOKEN_TYPES, required=True, help="names text_shape")
    parser.add_argument("--ngpu", type=int, default=0, help="number of GPUs per machine")
    parser.add_argument("--num_nodes", type=int, default=1, help="number of machines")
    parser.add_argument(
        "train_args",
        nargs="*",
        help="after '--': the training's options, which count before the configuration",
    )
    args = parser.parse_args(argv)
    config = read_config(args.train_config) | training_options(args.train_args)
    options = complete_options(config)
    shape_files = [
        args.shape_dir / "speech_shape",
        args.shape_dir / f"text_shape.{args.token_type}",
    ]
    for path in shape_files:
        if not path.is_file():
            raise HJPruneError(f"{path} does not exist; run stage 2 first")
    batches = count_batches(options, shape_files, max(args.ngpu, 1) * args.num_nodes)
    steps = count_steps(options, batches)
    print(f"batches_per_epoch={steps.batches_per_epoch}")
    print(f"steps_per_epoch={steps.steps_per_epoch}")
    print(f"max_epoch={steps.max_epoch}")
    print(f"total_steps={steps.total_steps}")


if __name__ == "__main__":
    run_command(main)
