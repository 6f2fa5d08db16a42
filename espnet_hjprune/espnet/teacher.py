"""The teacher of a training: the unpruned model, whose states and outputs the pruned one learns."""

from __future__ import annotations

import argparse
import copy
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from espnet2.asr.ctc import CTC
from espnet2.asr.decoder.abs_decoder import AbsDecoder
from espnet2.asr.decoder.mlm_decoder import MLMDecoder
from espnet2.asr.decoder.transducer_decoder import TransducerDecoder
from espnet2.cls.decoder.abs_decoder import AbsDecoder as AbsClassifier
from espnet2.train.abs_espnet_model import AbsESPnetModel

from espnet_hjprune.config_file import read_config
from espnet_hjprune.errors import HJPruneError
from espnet_hjprune.espnet.losses import FurtherLoss, find_upstreams
from espnet_hjprune.espnet.precision import use_mixed_precision
from espnet_hjprune.espnet.short_audio import keep_short_audio
from espnet_hjprune.espnet.training_options import check_teacher_threads
from espnet_hjprune.model.distillation import logits_loss
from espnet_hjprune.model.distillation_config import DistillationConfig
from espnet_hjprune.model.espnet_config import NAME, drop_reading_options, unpruned_model
from espnet_hjprune.model.hidden_states import Lesson
from espnet_hjprune.model.model_dir import read_weights
from espnet_hjprune.model.upstream import SpeechUpstream

DECODERS = (AbsDecoder, AbsClassifier)
# Decoders that give no distribution, or draw what they predict.
NO_OUTPUTS = (TransducerDecoder, MLMDecoder)


def add_teacher(task: Any, options: Mapping[str, Any], model: AbsESPnetModel) -> None:
    """Let the teacher that a training names add its losses to the model's, while it trains.

    Args:
        task: the class of the ESPnet task.
        options: options of the training.
        model: the model; one without distillation is left alone.

    Raises:
        HJPruneError: there is no teacher, it cannot be read, or it is a model of another kind.
    """
    taught = [u for u in find_upstreams(model).values() if u.options.distillation is not None]
    there = any(isinstance(hook, Distillation) for hook in model._forward_hooks.values())
    if not taught or there:
        return
    if len(taught) > 1:
        raise HJPruneError("the model has two upstreams with distillation; give it to one of them")
    (student,) = taught
    labels = getattr(model, "classification_type", "multi-class")
    wanted = student.options.distillation
    if labels == "multi-label" and wanted is not None and wanted.logits > 0:
        raise HJPruneError(
            "the outputs of a multi-label classification are no distribution; set "
            "distillation.logits: 0"
        )
    check_teacher_threads(options)
    file = teacher_file(options, student)
    teacher = load_teacher(task, file, options.get("token_list"))
    use_mixed_precision(options, teacher)
    logging.info("Taught by %s", file)
    model.register_forward_hook(Distillation(student, model, teacher, file))


def teacher_file(options: Mapping[str, Any], student: SpeechUpstream) -> str:
    """Weights of the teacher: the one that is named, or the model that a pruning starts from.

    Raises:
        HJPruneError: there is none.
    """
    distillation = student.options.distillation
    named = distillation.teacher if distillation is not None else None
    if named:
        return named
    unpruned = unpruned_model(options) if student.pruner is not None else None
    if unpruned is None:
        raise HJPruneError(
            "distillation has no teacher; set distillation.teacher to the weights of the "
            "fine-tuned model without gates"
        )
    return unpruned


def load_teacher(task: Any, file: str, token_list: Any = None) -> AbsESPnetModel:
    """Build a fine-tuned model from the ``config.yaml`` beside its weights, for evaluation.

    A model of ESPnet's ``s3prl`` frontend is read as one of ``hj_prune``.

    Args:
        task: the class of the ESPnet task.
        file: the weights.
        token_list: tokens of the student.

    Raises:
        HJPruneError: the files are missing or do not fit, the model has gates or other tokens.
    """
    state = read_weights(file)
    config_file = Path(file).parent / "config.yaml"
    config = copy.deepcopy(read_config(config_file))
    if config.get("token_list") != token_list:
        raise HJPruneError(f"the teacher {file} has other tokens than the model that it teaches")
    if config.get("frontend") == "s3prl":
        config["frontend"] = NAME
    config["init"] = None
    drop_reading_options(config)
    teacher = task.build_model(argparse.Namespace(**config))
    upstreams = find_upstreams(teacher)
    if len(upstreams) != 1:
        raise HJPruneError(f"the teacher {file} has no single upstream hj_prune or s3prl")
    (upstream,) = upstreams.values()
    if upstream.pruner is not None:
        raise HJPruneError(
            f"the teacher {file} has gates; set distillation.teacher to a model without, such as "
            "the fine-tuned one"
        )
    try:
        teacher.load_state_dict(state)
    except RuntimeError as error:
        raise HJPruneError(
            f"{file} does not hold the weights of the model that {config_file} describes "
            f"({' '.join(str(error).split())[:200]})"
        ) from error
    for module in teacher.modules():
        # ESPnet decodes where a model is evaluated, and drops out of CTC's input at all times.
        for name in vars(module):
            if "error_calculator" in name:
                setattr(module, name, None)
        if isinstance(module, CTC):
            module.dropout_rate = 0.0
    keep_short_audio(teacher)
    return teacher.eval().requires_grad_(False)


@dataclass
class Output:
    """What a decoder or CTC has put out: logits ``(batch, [time,] classes)`` and their lengths."""

    logits: torch.Tensor
    lengths: torch.Tensor | None


class OutputRecorder:
    """Keeps what the CTC and decoder of a model put out during its forward passes."""

    def __init__(self, model: torch.nn.Module) -> None:
        self.outputs: list[Output] = []
        self.ctc_logits: torch.Tensor | None = None
        for module in model.modules():
            if isinstance(module, CTC):
                module.ctc_lo.register_forward_hook(self._note_logits)
                module.register_forward_hook(self._keep_ctc)
            elif isinstance(module, DECODERS) and not isinstance(module, NO_OUTPUTS):
                module.register_forward_hook(self._keep_decoded)

    def take(self) -> list[Output]:
        """What was put out since the last call."""
        outputs, self.outputs = self.outputs, []
        self.ctc_logits = None
        return outputs

    def _note_logits(self, module: Any, inputs: Any, logits: torch.Tensor) -> None:
        self.ctc_logits = logits

    def _keep_ctc(self, module: Any, inputs: Sequence[torch.Tensor], loss: Any) -> None:
        if self.ctc_logits is not None:
            self.outputs.append(Output(self.ctc_logits, inputs[1]))

    def _keep_decoded(self, module: Any, inputs: Sequence[torch.Tensor], decoded: Any) -> None:
        while isinstance(decoded, tuple):
            decoded = decoded[0]
        # Those that the Transformer decoder returns are none.
        lengths = inputs[3] if decoded.dim() == 3 and len(inputs) > 3 else None
        self.outputs.append(Output(decoded, lengths))


class Distillation(FurtherLoss):
    """The distance of a model in training from its teacher, as a further loss.

    The teacher is no part of the model: neither is it saved with it nor trained.
    """

    def __init__(
        self, student: SpeechUpstream, model: AbsESPnetModel, teacher: AbsESPnetModel, file: str
    ) -> None:
        config = student.options.distillation
        if config is None:
            raise ValueError("the student has no options of distillation")
        self.options: DistillationConfig = config
        self.teacher = teacher
        self.file = file
        (upstream,) = find_upstreams(teacher).values()
        self.lesson: Lesson | None = None
        if config.hidden > 0:
            self.lesson = Lesson(student, upstream, config.layers, file)
        self.recorders = [OutputRecorder(m) for m in (model, teacher)]
        self.batch: dict[str, Any] = {}
        model.register_forward_pre_hook(self._keep_batch, with_kwargs=True)

    def _keep_batch(self, model: Any, inputs: Any, batch: dict[str, Any]) -> None:
        """Forward pre-hook of the model: ESPnet's ``utterance_mvn`` changes what it is given."""
        # A pass that gave no loss, or failed, has left its states and outputs.
        for recorder in self.recorders:
            recorder.take()
        if self.lesson is not None:
            self.lesson.forget()
        if model.training:
            self.batch = {k: v.clone() if torch.is_tensor(v) else v for k, v in batch.items()}

    def terms(self, model: torch.nn.Module) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Weighted distances of the last forward pass, and each of them for the statistics.

        In evaluation nothing is learned, and the loss is 0.
        """
        outputs = self.recorders[0].take()
        device = next(model.parameters()).device
        total = torch.zeros((), device=device)
        if not model.training:
            return total, {}
        self.teacher.to(device)
        with torch.no_grad():
            self.teacher(**self.batch)
        self.batch = {}
        goals = self.recorders[1].take()
        figures: dict[str, torch.Tensor] = {}
        if self.lesson is not None:
            figures["loss_hidden"] = self.lesson.loss()
            total = total + self.options.hidden * figures["loss_hidden"]
        if self.options.logits > 0 and outputs:
            figures["loss_logits"] = self._logits_loss(outputs, goals)
            total = total + self.options.logits * figures["loss_logits"]
        return total, {name: value.detach() for name, value in figures.items()}

    def _logits_loss(self, outputs: list[Output], goals: list[Output]) -> torch.Tensor:
        if [output.logits.shape for output in outputs] != [goal.logits.shape for goal in goals]:
            raise HJPruneError(
                f"the teacher {self.file} gives other outputs than the model that it teaches; name "
                "a teacher of the same kind, or set distillation.logits: 0"
            )
        return torch.stack(
            [
                logits_loss(own.logits, goal.logits, own.lengths, self.options.temperature)
                for own, goal in zip(outputs, goals, strict=True)
            ]
        ).mean()
