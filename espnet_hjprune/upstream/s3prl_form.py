"""Checkpoints that s3prl loads: s3prl builds the upstream, we take the weights."""

from __future__ import annotations

import argparse
import dataclasses
import enum
import importlib
import importlib.util
import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from espnet_hjprune.atomic import replaced_file
from espnet_hjprune.checkpoint_file import UnsafeCheckpointError, read_checkpoint
from espnet_hjprune.errors import HJPruneError
from espnet_hjprune.nn.config import EncoderConfig
from espnet_hjprune.upstream.download import address_of, download
from espnet_hjprune.upstream.form import Form, Loaded, RandomModel, ReadOptions

# What can be done about a checkpoint that holds more than data.
TRUST = (
    "give another checkpoint, or, if you trust this one, the option trust_checkpoint: true beside "
    "path_or_url (--trust_checkpoint true in a recipe)"
)
# What a training of fairseq leaves in its checkpoints, beside the model.
_OF_A_TRAINING = ("args", "optimizer_history", "last_optimizer_state", "extra_state", "task_state")


@dataclass(frozen=True)
class S3prlForm(Form):
    """Checkpoint files of one of s3prl's upstream packages.

    Attributes:
        package: s3prl's package, below ``s3prl.upstream``.
        patterns: the package's upstream names, as messages list them.
        weight_key: entry of the checkpoint that holds the weights.
        option_keys: its other entries that s3prl reads.
        read: takes our configuration and fairseq's weights from s3prl's ``UpstreamExpert``.
        make: builds s3prl's model of an architecture with random weights, and a checkpoint of it
            without the weights. What a published checkpoint has beside the model's own weights
            goes under ``weight_key``.
    """

    package: str
    patterns: str
    weight_key: str
    option_keys: tuple[str, ...]
    read: Callable[[Any], Loaded]
    make: Callable[[EncoderConfig], tuple[nn.Module, dict[str, Any]]]

    @property
    def key(self) -> str:
        """The package's name."""
        return self.package

    @property
    def names(self) -> str:
        """The package's upstream names."""
        return self.patterns

    def needs_path(self, name: str) -> bool:
        """Upstreams of other names bring their own checkpoint."""
        return name.endswith(("_local", "_url", "_custom"))

    def expert(self, file: str | io.BytesIO) -> Any:
        """Let s3prl build an upstream of the package from a checkpoint in its own format."""
        # Not from s3prl.hub, which imports all packages.
        module = importlib.import_module(f"s3prl.upstream.{self.package}.expert")
        return module.UpstreamExpert(file)

    def load(self, name: str, path: str | None, options: ReadOptions) -> Loaded:
        """Let s3prl build the upstream, then read it off; see :meth:`Form.load`.

        s3prl gets what it needs of the checkpoint, as plain data: it unpickles whatever it is
        given.
        """
        downloaded = path is None or "://" in path
        file = self._find(name, path, options.download_dir)
        try:
            content = read_checkpoint(file, TRUST, options.trust_checkpoint, mmap=True)
        except UnsafeCheckpointError as error:
            if error.needs.startswith("fairseq."):
                raise self._is_fairseq(file) from error
            raise
        except Exception as error:
            if isinstance(error, ModuleNotFoundError) and error.name == "fairseq":
                raise self._is_fairseq(file) from error
            raise self._unreadable(file, error, downloaded) from error
        try:
            return self.read(self.expert(self._as_plain_data(content)))
        except HJPruneError:
            raise
        except Exception as error:
            if _is_raw_fairseq(content):
                raise self._is_fairseq(file) from error
            # s3prl reports a file of another kind through whatever its reader stumbles over.
            raise self._unreadable(file, error, downloaded) from error

    def _find(self, name: str, path: str | None, download_dir: str | None) -> Path:
        """The checkpoint on this machine, where needed after a download."""
        if path is not None and "://" not in path:
            if not Path(path).is_file():
                raise HJPruneError(f"the upstream checkpoint {path} does not exist")
            return Path(path)
        by_hand = f"{self.package}_local"
        remedy = (
            f"download it elsewhere, and give the file with --upstream {by_hand} --upstream_ckpt "
            f"FILE (upstream: {by_hand} and path_or_url: FILE in a configuration)"
        )
        return download(path or address_of(self.package, name), download_dir, remedy)

    def _as_plain_data(self, content: Any) -> io.BytesIO:
        """What s3prl reads of a checkpoint, as such a file in memory."""
        entries = {
            key: content[key] if key == self.weight_key else _plain(content[key])
            for key in (self.weight_key, *self.option_keys)
        }
        buffer = io.BytesIO()
        torch.save(entries, buffer)
        buffer.seek(0)
        return buffer

    def _unreadable(self, file: Path, error: Exception, downloaded: bool) -> HJPruneError:
        reason = str(error).splitlines()[0] if str(error) else ""
        remedy = "remove it to download it again" if downloaded else "give another one"
        return HJPruneError(
            f"{file} cannot be read as a {self.package} checkpoint in s3prl's converted format "
            f"({type(error).__name__}: {reason}); {remedy}"
        )

    def _is_fairseq(self, file: Path) -> HJPruneError:
        converter = f"s3prl.upstream.{self.package}.convert"
        if importlib.util.find_spec(converter) is None:
            return HJPruneError(
                f"{file} is a raw checkpoint of fairseq, and none of {self.package}; name the "
                "upstream of its kind, such as wav2vec2_local or hubert_local"
            )
        return HJPruneError(
            f"{file} is a raw checkpoint of fairseq, which s3prl must convert first: run python3 "
            f"-m {converter} {file} --output_dir converted (it needs fairseq, and runs what the "
            f"file holds), and give converted/{file.stem}.pt"
        )

    def random_model(self, config: EncoderConfig) -> RandomModel:
        """Build s3prl's model with random weights, and what saves it as a checkpoint file."""
        model, content = self.make(config)

        def save(path: Path) -> None:
            weights = model.state_dict() | content.get(self.weight_key, {})
            with replaced_file(path) as temporary:
                torch.save(content | {self.weight_key: weights}, temporary)

        return model, save


def as_dict(config: Any) -> dict[str, Any]:
    """Fields of one of s3prl's configurations, a dataclass or a mapping."""
    return dataclasses.asdict(config) if dataclasses.is_dataclass(config) else dict(config)  # type: ignore[arg-type]


def _plain(value: Any) -> Any:
    """Options as dictionaries, lists and plain values."""
    if isinstance(value, argparse.Namespace):
        value = vars(value)
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(map(_plain, value))
    if isinstance(value, enum.Enum):
        return _plain(value.value)
    return value.item() if isinstance(value, np.generic) else value


def _is_raw_fairseq(content: Any) -> bool:
    """Whether a checkpoint is as fairseq's trainings write it."""
    if not isinstance(content, Mapping) or "model" not in content:
        return False
    options = content.get("cfg")
    whole = isinstance(options, Mapping) and {"task", "model"} <= options.keys()
    return whole or any(name in content for name in _OF_A_TRAINING)
