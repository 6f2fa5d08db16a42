"""Checkpoints of ESPnet's trainer that are whole, whenever the training is killed.

ESPnet overwrites ``checkpoint.pth`` in place; killed meanwhile, the training could not resume. It
also saves the epoch's model after the checkpoint; killed in between, the model would be missing
when the best ones are averaged.
"""

from __future__ import annotations

import os
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from espnet2.main_funcs import average_nbest_models
from espnet2.train import trainer

from espnet_hjprune.atomic import replaced_file


class TorchWithAtomicSave(ModuleType):
    """What a module sees as ``torch``: all of it, but a :meth:`save` to a temporary name first."""

    def __init__(self) -> None:
        super().__init__("torch")

    def __getattr__(self, name: str) -> Any:
        """Whatever else torch has."""
        return getattr(torch, name)

    def save(self, obj: Any, f: Any, *args: Any, **kwargs: Any) -> None:
        """Save so that the file is either old, or new and complete; a checkpoint after its model.

        Args:
            obj: what to save.
            f: name of a file, or an open one.
            args: handed on to ``torch.save``.
            kwargs: the same.
        """
        if not isinstance(f, str | os.PathLike):
            torch.save(obj, f, *args, **kwargs)
            return
        path = Path(f)
        if path.name == "checkpoint.pth" and {"model", "reporter"} <= set(obj):
            self.save(obj["model"], path.with_name(f"{obj['reporter']['epoch']}epoch.pth"))
        with replaced_file(path) as partial:
            torch.save(obj, partial, *args, **kwargs)


def save_atomically() -> None:
    """Let ESPnet's trainer and its averaging of models save by :class:`TorchWithAtomicSave`."""
    for module in (trainer, average_nbest_models):
        module.torch = TorchWithAtomicSave()
