"""What ESPnet's Lightning trainer lacks for a training with gates."""

from __future__ import annotations

import argparse
from typing import Any

import torch
from espnet2.tasks.abs_task import scheduler_classes

from espnet_hjprune.errors import HJPruneError
from espnet_hjprune.espnet.model import find_pruners


def prepare(module_class: type) -> None:
    """Let a ``LitESPnetModel`` with gates make optimiser groups, as ESPnet's own trainer does."""
    # Since torch 2.6 ESPnet could not average its own checkpoints, which hold the options.
    torch.serialization.add_safe_globals([argparse.Namespace])
    configure_without = module_class.configure_optimizers  # type: ignore[attr-defined]

    def configure_optimizers(self: Any) -> dict[str, Any]:
        """Optimiser and scheduler for Lightning.

        Raises:
            HJPruneError: there is no scheduler, without which Lightning fails.
        """
        if not find_pruners(self.model):
            return configure_without(self)
        if self.args.scheduler not in scheduler_classes:
            raise HJPruneError(
                f"scheduler is {self.args.scheduler}, but lightning_train cannot do without; set "
                "scheduler: linear_warmup_decay, for example"
            )
        (optimizer,) = self.task_class.build_optimizers(self.args, self.model)
        scheduler = scheduler_classes[self.args.scheduler](optimizer, **self.args.scheduler_conf)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": scheduler, "interval": "step"},
        }

    module_class.configure_optimizers = configure_optimizers  # type: ignore[attr-defined]
