"""What ESPnet's Lightning trainer lacks for a training with gates."""

from __future__ import annotations

import argparse
from typing import Any

import torch
from espnet2.tasks.abs_task import scheduler_classes

from espnet_hjprune.errors import HJPruneError
from espnet_hjprune.espnet.distillation import add_teacher
from espnet_hjprune.espnet.losses import find_pruners, find_upstreams
from espnet_hjprune.espnet.options import check_options


def prepare(module_class: type) -> None:
    """Let a ``LitESPnetModel`` with gates make optimiser groups, as ESPnet's own trainer does."""
    # Since torch 2.6 ESPnet could not average its own checkpoints, which hold the options.
    torch.serialization.add_safe_globals([argparse.Namespace])
    configure_without = module_class.configure_optimizers  # type: ignore[attr-defined]

    def configure_optimizers(self: Any) -> dict[str, Any]:
        """Optimiser and scheduler for Lightning."""
        if find_upstreams(self.model):
            _check(self.args, self.model)
        if not find_pruners(self.model):
            add_teacher(self.task_class, vars(self.args), self.model)
            return configure_without(self)
        (optimizer,) = self.task_class.build_optimizers(self.args, self.model)
        scheduler = scheduler_classes[self.args.scheduler](optimizer, **self.args.scheduler_conf)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": scheduler, "interval": "step"},
        }

    module_class.configure_optimizers = configure_optimizers  # type: ignore[attr-defined]


def _check(args: argparse.Namespace, model: torch.nn.Module) -> None:
    """Check what ESPnet's Lightning trainer needs, or passes over in silence.

    Raises:
        HJPruneError: an option that cannot be used.
    """
    check_options(vars(args), model)
    if args.scheduler not in scheduler_classes:
        raise HJPruneError(
            f"scheduler is {args.scheduler}, but lightning_train cannot do without; set "
            "scheduler: linear_warmup_decay, for example"
        )
    for name in ("init_param", "freeze_param"):
        if getattr(args, name, None):
            raise HJPruneError(
                f"lightning_train does nothing with {name}; use asr_train or cls_train instead"
            )
    if find_pruners(model) and args.lightning_conf.get("strategy", "ddp") != "ddp":
        raise HJPruneError(
            f"gates and multipliers are not trained with the strategy "
            f"{args.lightning_conf['strategy']}; set strategy: ddp in lightning_conf"
        )
