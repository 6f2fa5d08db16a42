"""The number of batches that ESPnet makes of a training set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from espnet2.samplers.build_batch_sampler import build_batch_sampler

from espnet_hjprune.errors import HJPruneError


def count_batches(
    options: Mapping[str, Any], shape_files: Sequence[Path], world_size: int = 1
) -> int:
    """Count the batches of an epoch: made once from the lengths, they are as many in each.

    Args:
        options: all of :data:`~espnet_hjprune.training.steps.DEFAULTS`.
        shape_files: ``speech_shape`` first, then ``text_shape.*``.
        world_size: number of processes of distributed training.

    Raises:
        HJPruneError: ESPnet makes no batches with these options.
    """
    if options["num_iters_per_epoch"] is not None:
        return int(options["num_iters_per_epoch"])
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
    return len(list(sampler))
