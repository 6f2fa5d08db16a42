"""The loss of a trained ESPnet model on utterances, outside of a training."""

from __future__ import annotations

import importlib
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from espnet2.torch_utils.device_funcs import to_device

from espnet_hjprune import plugin
from espnet_hjprune.errors import HJPruneError
from espnet_hjprune.espnet.losses import find_upstreams
from espnet_hjprune.model.upstream import SpeechUpstream

Batch = dict[str, torch.Tensor]


class TaskLoss:
    """The loss of a model that was trained without gates, without dropout and masks.

    Args:
        task: ESPnet task whose data are ``speech`` and ``text``, such as ``asr`` and ``slu``.
        train_config: ``config.yaml`` of the model.
        model_file: its weights.
        device: where it runs.

    Attributes:
        upstream: the model's upstream, which may get gates.

    Raises:
        HJPruneError: there is no such task, or the model has no upstream of ours, or gates.
    """

    upstream: SpeechUpstream

    def __init__(self, task: str, train_config: Path, model_file: Path, device: str) -> None:
        plugin.register()
        try:
            module = importlib.import_module(f"espnet2.tasks.{task}")
        except ModuleNotFoundError:
            raise HJPruneError(f"ESPnet has no task {task}; --task takes asr, slu, ...") from None
        names = {"asr": "ASRTask", "slu": "SLUTask"}
        if task not in names:
            raise HJPruneError(f"--task {task} cannot be previewed; it is asr or slu")
        self._task = getattr(module, names[task])
        self._model, self._args = self._task.build_model_from_file(train_config, model_file, device)
        self._model.eval().requires_grad_(False)
        self._device = device
        upstreams = list(find_upstreams(self._model).values())
        if len(upstreams) != 1:
            raise HJPruneError(f"{train_config} has neither frontend nor encoder hj_prune")
        (self.upstream,) = upstreams
        if self.upstream.pruner is not None:
            raise HJPruneError(f"{train_config} is a model with gates; give the one before them")

    def batches(self, data_dir: Path, utterances: Sequence[str]) -> Iterator[Batch]:
        """Batches of one utterance each, in order.

        Args:
            data_dir: formatted data with wav.scp and text.
            utterances: names of some of its utterances.
        """
        format_file = data_dir / "audio_format"
        is_ark = format_file.is_file() and format_file.read_text("utf-8").strip().endswith(".ark")
        data = [
            (str(data_dir / "wav.scp"), "speech", "kaldi_ark" if is_ark else "sound"),
            (str(data_dir / "text"), "text", "text"),
        ]
        with tempfile.NamedTemporaryFile("w", encoding="utf-8", suffix=".scp") as keys:
            keys.write("".join(f"{name} {name}\n" for name in utterances))
            keys.flush()
            iterator = self._task.build_streaming_iterator(
                data,
                self._task.build_preprocess_fn(self._args, train=False),
                self._task.build_collate_fn(self._args, train=False),
                key_file=keys.name,
                batch_size=1,
                dtype="float32",
                num_workers=0,
            )
            for _, batch in iterator:
                yield to_device(batch, self._device)

    def __call__(self, batch: Batch) -> torch.Tensor:
        """The task's loss of a batch, a scalar."""
        loss: torch.Tensor = self._model(**batch)[0]
        return loss
