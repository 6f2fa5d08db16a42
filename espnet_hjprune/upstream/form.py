"""What a form of checkpoint must be able to do, whoever publishes it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from espnet_hjprune.nn.config import EncoderConfig

# Our configuration of a dense encoder, and its weights under fairseq's names.
Loaded = tuple[EncoderConfig, Mapping[str, torch.Tensor]]
# A model with random weights, and what saves it to a path as models of its form are published.
RandomModel = tuple[nn.Module, Callable[[Path], None]]


@dataclass(frozen=True)
class ReadOptions:
    """How a checkpoint is read.

    Attributes:
        download_dir: where downloads are kept; ``None`` for the usual place.
        trust_checkpoint: read one that holds more than data too, and execute what it holds.
        normalize_input: whether utterances are scaled to zero mean and unit variance, whatever the
            checkpoint says; ``None`` for what it says.
        init_ctc: whether the checkpoint's CTC layer is taken over as well, by others.
    """

    download_dir: str | None = None
    trust_checkpoint: bool = False
    normalize_input: bool | None = None
    init_ctc: bool = False


class Form(ABC):
    """A form in which checkpoints of a family are published."""

    @property
    @abstractmethod
    def key(self) -> str:
        """What the form is called in options and messages, such as ``hubert`` or ``hf_hubert``."""

    @property
    @abstractmethod
    def names(self) -> str:
        """The upstream names that users give, as messages list them."""

    @abstractmethod
    def needs_path(self, name: str) -> bool:
        """Whether the upstream ``name`` needs the path or URL of a checkpoint."""

    @abstractmethod
    def load(self, name: str, path: str | None, options: ReadOptions) -> Loaded:
        """Load an upstream.

        Args:
            name: one of the form's upstream names.
            path: the checkpoint, where the name needs one.
            options: how it is read; where it does not say whether utterances are normalised, they
                do.

        Raises:
            HJPruneError: there is no such checkpoint, or it is of another kind, holds more than
                data, or has something that our encoder does not have.
        """

    @abstractmethod
    def random_model(self, config: EncoderConfig) -> RandomModel:
        """Build a model of a dense architecture of the family as the form's own package does."""
