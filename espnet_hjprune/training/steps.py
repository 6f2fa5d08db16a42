"""The number of optimiser steps that ESPnet makes with a training configuration."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from espnet_hjprune.errors import HJPruneError

# What ESPnet's option parser takes for options that a configuration does not name.
DEFAULTS: dict[str, Any] = {
    "max_epoch": 40,
    "accum_grad": 1,
    "num_iters_per_epoch": None,
    "batch_type": "folded",
    "batch_size": 20,
    "batch_bins": 1000000,
    "min_batch_size": 1,
    "fold_length": [],
    "sort_in_batch": "descending",
    "sort_batch": "descending",
    "drop_last_iter": False,
    "iterator_type": "sequence",
}


@dataclass(frozen=True)
class TrainingSteps:
    """Batches and optimiser steps of an epoch, number of epochs, and all optimiser steps."""

    batches_per_epoch: int
    steps_per_epoch: int
    max_epoch: int

    @property
    def total_steps(self) -> int:
        """Optimiser steps of the whole training."""
        return self.steps_per_epoch * self.max_epoch


def training_options(arguments: Sequence[str]) -> dict[str, Any]:
    """The options of :data:`DEFAULTS` among command-line arguments of ESPnet's training.

    Raises:
        HJPruneError: One of them has no value or no number where it needs one.
    """
    parser = argparse.ArgumentParser(
        add_help=False,
        allow_abbrev=False,
        exit_on_error=False,
        argument_default=argparse.SUPPRESS,
    )
    parser.add_argument("--fold_length", type=int, action="append")
    parser.add_argument("--drop_last_iter", choices=("true", "false"))
    for option in ("batch_type", "sort_in_batch", "sort_batch", "iterator_type"):
        parser.add_argument(f"--{option}")
    for option in ("batch_size", "batch_bins", "min_batch_size"):
        parser.add_argument(f"--{option}", type=int)
    for option in ("max_epoch", "accum_grad", "num_iters_per_epoch"):
        parser.add_argument(f"--{option}", type=int)
    try:
        options = vars(parser.parse_known_args(list(arguments))[0])
    except argparse.ArgumentError as error:
        raise HJPruneError(f"training {error}; correct the option") from None
    if "drop_last_iter" in options:
        options["drop_last_iter"] = options["drop_last_iter"] == "true"
    return options


def count_steps(
    config: Mapping[str, Any], shape_files: list[Path], world_size: int = 1
) -> TrainingSteps:
    """Count the steps as ESPnet's trainer makes them.

    Batches are made once from the lengths, so every epoch has as many. The trainer steps when
    ``accum_grad`` batches are complete; a remainder at the end of an epoch makes no step.

    Args:
        config: Options of ESPnet's training; missing ones have ESPnet's defaults.
        shape_files: ``speech_shape`` first, then ``text_shape.*``.
        world_size: Number of processes of distributed training.

    Raises:
        HJPruneError: A shape file is missing, or ESPnet makes no batches with these options.
    """
    for path in shape_files:
        if not path.is_file():
            raise HJPruneError(f"{path} does not exist; run stage 2 first")
    options = DEFAULTS | {key: config[key] for key in DEFAULTS if config.get(key) is not None}
    if options["iterator_type"] != "sequence":
        raise HJPruneError(
            f"iterator_type '{options['iterator_type']}' has no fixed number of steps; "
            "use iterator_type: sequence"
        )
    batches = options["num_iters_per_epoch"]
    if batches is None:
        from espnet2.samplers.build_batch_sampler import build_batch_sampler

        try:
            sampler = build_batch_sampler(
                type=options["batch_type"],
                batch_size=int(options["batch_size"]),
                batch_bins=int(options["batch_bins"]),
                shape_files=[str(path) for path in shape_files],
                sort_in_batch=options["sort_in_batch"],
                sort_batch=options["sort_batch"],
                drop_last=options["drop_last_iter"],
                min_batch_size=world_size if world_size > 1 else options["min_batch_size"],
                fold_lengths=options["fold_length"],
            )
        except (RuntimeError, ValueError) as error:
            raise HJPruneError(
                f"ESPnet makes no batches with batch_type '{options['batch_type']}': {error}"
            ) from None
        batches = len(list(sampler))
    steps_per_epoch = batches // options["accum_grad"]
    if steps_per_epoch < 1:
        raise HJPruneError(
            f"an epoch has {batches} batches, fewer than accum_grad {options['accum_grad']}, so "
            "training would make no step; lower accum_grad or the batch size"
        )
    return TrainingSteps(batches, steps_per_epoch, options["max_epoch"])
