"""The number of optimiser steps that ESPnet makes with a training configuration."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from espnet_hjprune.errors import HJPruneError
from espnet_hjprune.options import read_number

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

# Options of ESPnet's training that are whole numbers, as far as they say how long it lasts.
WHOLE = (
    "max_epoch",
    "accum_grad",
    "num_iters_per_epoch",
    "batch_size",
    "batch_bins",
    "min_batch_size",
    "valid_batch_size",
    "valid_batch_bins",
)

# Types of batches that ``batch_bins`` limits.
BY_AMOUNT = ("numel", "length")


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
    """``scheduler`` and those of :data:`DEFAULTS` among the arguments of ESPnet's training.

    Raises:
        HJPruneError: one of them has no value or no number where it needs one.
    """
    parser = argparse.ArgumentParser(
        add_help=False,
        allow_abbrev=False,
        exit_on_error=False,
        argument_default=argparse.SUPPRESS,
    )
    parser.add_argument("--fold_length", type=int, action="append")
    parser.add_argument("--drop_last_iter", choices=("true", "false"))
    for option in ("batch_type", "sort_in_batch", "sort_batch", "iterator_type", "scheduler"):
        parser.add_argument(f"--{option}")
    for option in ("batch_size", "batch_bins", "min_batch_size"):
        parser.add_argument(f"--{option}", type=int)
    for option in ("max_epoch", "accum_grad"):
        parser.add_argument(f"--{option}", type=int)
    parser.add_argument("--num_iters_per_epoch", type=_count_or_none)
    try:
        options = vars(parser.parse_known_args(list(arguments))[0])
    except argparse.ArgumentError as error:
        raise HJPruneError(f"training {error}; correct the option") from None
    if "drop_last_iter" in options:
        options["drop_last_iter"] = options["drop_last_iter"] == "true"
    return options


def without_max_epoch(arguments: Sequence[str]) -> list[str]:
    """The arguments of ESPnet's training but ``--max_epoch``, however often it is given."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--max_epoch")
    return parser.parse_known_args(list(arguments))[1]


def _count_or_none(value: str) -> int | None:
    return None if value.lower() in ("none", "null", "nil") else int(value)


def step_options(config: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """All options of :data:`DEFAULTS`, with their defaults where nothing says more.

    Args:
        config: the configuration.
        given: what :func:`training_options` found, which counts before it.

    Raises:
        HJPruneError: they make epochs of different lengths, or one is no number.
    """
    stated = {**config, **given}
    if "fold_length" in given:  # ESPnet appends them to those of the configuration.
        stated["fold_length"] = [*(config.get("fold_length") or []), *given["fold_length"]]
    if stated.get("batch_type") in BY_AMOUNT and "batch_size" in given:
        raise HJPruneError(
            f"--batch_size does nothing with batch_type: {stated['batch_type']}, whose batches "
            "hold an amount of audio; give --batch_bins, or --batch_type sorted too"
        )
    options = DEFAULTS | {key: stated[key] for key in DEFAULTS if stated.get(key) is not None}
    options |= whole_numbers(options)
    if options["iterator_type"] != "sequence":
        raise HJPruneError(
            f"iterator_type '{options['iterator_type']}' has no fixed number of steps; "
            "use iterator_type: sequence"
        )
    return options


def whole_numbers(config: Mapping[str, Any]) -> dict[str, int]:
    """Those of :data:`WHOLE` that a configuration has; YAML has ``3.2e6`` as ``3200000.0``.

    Raises:
        HJPruneError: one is no whole number.
    """
    return {
        name: read_number(config[name], "int", name)
        for name in WHOLE
        if config.get(name) is not None
    }


def count_steps(options: Mapping[str, Any], batches_per_epoch: int) -> TrainingSteps:
    """Count the steps as ESPnet's trainer makes them.

    The trainer steps when ``accum_grad`` batches are complete; a remainder at the end of an epoch
    makes no step.

    Args:
        options: all of :data:`DEFAULTS`.
        batches_per_epoch: batches that ESPnet makes with these options.

    Raises:
        HJPruneError: an epoch would have no step.
    """
    steps_per_epoch = batches_per_epoch // options["accum_grad"]
    if steps_per_epoch < 1:
        raise HJPruneError(
            f"an epoch has {batches_per_epoch} batches, fewer than accum_grad "
            f"{options['accum_grad']}, so training would make no step; lower accum_grad or the "
            "batch size"
        )
    return TrainingSteps(batches_per_epoch, steps_per_epoch, options["max_epoch"])
