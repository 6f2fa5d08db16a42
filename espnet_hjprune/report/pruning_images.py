"""The figures of a pruned model that do not depend on what it is for."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from espnet_hjprune.errors import HJPruneError
from espnet_hjprune.report.figures import plot_architecture, plot_pruning
from espnet_hjprune.report.results_md import Image, method_name
from espnet_hjprune.training.training_log import read_training_log


def pruning_images(
    name: str, summary: Mapping[str, Any], exp_dir: Path, prune_exp: Path | None
) -> list[Image]:
    """Draw the architecture of a pruned model and, if its log is there, the training of its gates.

    Args:
        name: what the model is called.
        summary: of its compaction.
        exp_dir: its experiment's directory.
        prune_exp: that of the gated pruning; ``None`` to leave its figure out.
    """
    path = plot_architecture(summary, exp_dir / "images" / "architecture.png")
    images = [Image(f"Architecture of {name}", path)]
    if prune_exp is not None:
        try:
            log = read_training_log(prune_exp)
            title = f"{method_name(summary)}: pruning"
            path = plot_pruning(log, title, prune_exp / "images" / "pruning.png")
            images.append(Image(f"Pruning of {name}", path))
        except HJPruneError as error:
            # Results do not depend on the training log, which a user may have removed.
            logging.warning("no figure of the pruning: %s", error)
    return images
