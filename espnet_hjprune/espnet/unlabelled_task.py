"""An ESPnet task without labels: an upstream is pruned, or trained, to do what its teacher does."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Collection
from typing import Any, ClassVar

import numpy as np
import torch
from espnet2.asr.frontend.abs_frontend import AbsFrontend
from espnet2.tasks.abs_task import AbsTask
from espnet2.torch_utils.device_funcs import force_gatherable
from espnet2.train.abs_espnet_model import AbsESPnetModel
from espnet2.train.class_choices import ClassChoices
from espnet2.train.collate_fn import CommonCollateFn
from espnet2.train.trainer import Trainer

from espnet_hjprune.espnet.frontend import HJPruneFrontend
from espnet_hjprune.espnet.tasks import register_task
from espnet_hjprune.espnet.training_options import check_teacher_threads
from espnet_hjprune.model.espnet_config import NAME, UNLABELLED
from espnet_hjprune.model.unlabelled import StateTeaching, UnlabelledConfig

Batch = tuple[list[str], dict[str, torch.Tensor]]


class UnlabelledModel(AbsESPnetModel):
    """An upstream that learns the hidden states of a teacher.

    Args:
        frontend: the upstream, with gates or without.
        options: the teacher, and what is learned of it.
    """

    def __init__(self, frontend: HJPruneFrontend, options: UnlabelledConfig) -> None:
        super().__init__()
        self.frontend = frontend
        self.teaching = StateTeaching(frontend.core, options)

    def forward(
        self, speech: torch.Tensor, speech_lengths: torch.Tensor, **_: Any
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor], torch.Tensor]:
        """The distance from the teacher on a padded batch ``(batch, samples)``."""
        speech = speech[:, : speech_lengths.max()]
        self.frontend(speech, speech_lengths)
        dtype = self.frontend.amp_dtype
        with torch.autocast(speech.device.type, dtype, enabled=dtype is not None):
            loss = self.teaching(speech, speech_lengths)
        gathered: tuple[torch.Tensor, dict[str, torch.Tensor], torch.Tensor]
        gathered = force_gatherable((loss, {"loss": loss.detach()}, len(speech)), loss.device)
        return gathered

    def collect_feats(
        self, speech: torch.Tensor, speech_lengths: torch.Tensor, **_: Any
    ) -> dict[str, torch.Tensor]:
        """The samples themselves, whose lengths are all that ESPnet's statistics are needed for."""
        return {"feats": speech.unsqueeze(-1), "feats_lengths": speech_lengths}


frontend_choices = ClassChoices(
    name="frontend", classes={NAME: HJPruneFrontend}, type_check=AbsFrontend, default=NAME
)
model_choices = ClassChoices(
    name="model", classes={UNLABELLED: UnlabelledModel}, type_check=AbsESPnetModel,
    default=UNLABELLED,
)  # fmt: skip


class UnlabelledTask(AbsTask):
    """Training of an :class:`UnlabelledModel` by ESPnet's trainer; the data is ``speech`` alone."""

    num_optimizers: int = 1
    class_choices_list: ClassVar = [frontend_choices, model_choices]
    trainer = Trainer

    @classmethod
    def add_task_arguments(cls, parser: argparse.ArgumentParser) -> None:
        """Options of the model, beside those that all tasks have."""
        group = parser.add_argument_group(description="Task related")
        for choices in cls.class_choices_list:
            choices.add_arguments(group)

    @classmethod
    def build_collate_fn(
        cls, args: argparse.Namespace, train: bool
    ) -> Callable[[Collection[tuple[str, dict[str, np.ndarray]]]], Batch]:
        """Pad utterances with zeros."""
        return CommonCollateFn(float_pad_value=0.0, int_pad_value=-1)

    @classmethod
    def build_preprocess_fn(cls, args: argparse.Namespace, train: bool) -> None:
        """Samples are used as they are."""
        return None

    @classmethod
    def required_data_names(cls, train: bool = True, inference: bool = False) -> tuple[str, ...]:
        """Audio."""
        return ("speech",)

    @classmethod
    def optional_data_names(cls, train: bool = True, inference: bool = False) -> tuple[str, ...]:
        """Nothing."""
        return ()

    @classmethod
    def build_model(cls, args: argparse.Namespace) -> UnlabelledModel:
        """Build student and teacher.

        Raises:
            HJPruneError: an option is wrong, or one of them cannot be read.
        """
        check_teacher_threads(vars(args))
        frontend = frontend_choices.get_class(args.frontend)(**args.frontend_conf)
        return UnlabelledModel(frontend, UnlabelledConfig.from_dict(args.model_conf))


# As the import of a task of ESPnet does; processes for further GPUs import this module alone.
register_task(sys.modules[__name__])
