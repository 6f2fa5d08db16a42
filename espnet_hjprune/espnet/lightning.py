"""What ESPnet's Lightning trainer lacks for a training with gates."""

from __future__ import annotations

import argparse
from types import ModuleType
from typing import Any

import torch
from espnet2.tasks.abs_task import scheduler_classes

from espnet_hjprune.errors import HJPruneError
from espnet_hjprune.espnet.losses import find_pruners, find_upstreams


def register_lightning(module: ModuleType) -> None:
    """Let models with the plugin be trained by ESPnet's module for Lightning.

    Args:
        module: ``espnet2.train.lightning_espnet_model``.
    """
    from espnet2.train import lightning_callbacks

    _make_optimiser_by_the_task(module.LitESPnetModel)
    _average_own_checkpoints(lightning_callbacks.AverageCheckpointsCallback)


def _make_optimiser_by_the_task(module_class: Any) -> None:
    """ESPnet makes the optimiser here itself; the seam of ``build_optimizers`` is in the task."""
    configure_without = module_class.configure_optimizers

    def configure_optimizers(self: Any) -> dict[str, Any]:
        """Optimiser and scheduler for Lightning."""
        if not find_upstreams(self.model):
            made: dict[str, Any] = configure_without(self)
            return made
        _check(self.args, self.model)
        (optimizer,) = self.task_class.build_optimizers(self.args, self.model)
        scheduler = scheduler_classes[self.args.scheduler](optimizer, **self.args.scheduler_conf)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": scheduler, "interval": "step"},
        }

    module_class.configure_optimizers = configure_optimizers


def _average_own_checkpoints(callback: Any) -> None:
    """Since torch 2.6 ESPnet cannot read its own checkpoints, which hold the training's options."""
    average = callback.on_fit_end

    def on_fit_end(self: Any, *args: Any, **kwargs: Any) -> None:
        """Average the best checkpoints."""
        with torch.serialization.safe_globals([argparse.Namespace]):
            average(self, *args, **kwargs)

    callback.on_fit_end = on_fit_end


def _check(args: argparse.Namespace, model: torch.nn.Module) -> None:
    """Check what ESPnet's Lightning trainer needs, or passes over in silence.

    Raises:
        HJPruneError: an option that cannot be used.
    """
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
    precision = str(args.lightning_conf.get("precision", ""))
    if find_pruners(model) and precision.endswith("-true") and precision != "32-true":
        raise HJPruneError(
            f"gates are trained in float32, not with the precision {precision}; set precision: "
            "bf16-mixed in lightning_conf"
        )
    if find_pruners(model) and args.lightning_conf.get("strategy", "ddp") != "ddp":
        raise HJPruneError(
            f"gates and multipliers are not trained with the strategy "
            f"{args.lightning_conf['strategy']}; set strategy: ddp in lightning_conf"
        )
