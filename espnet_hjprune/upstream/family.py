"""The description of a family of upstreams: all that the package knows about it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

from espnet_hjprune.nn.config import EncoderConfig
from espnet_hjprune.upstream.form import Form
from espnet_hjprune.upstream.huggingface_form import HuggingFaceForm
from espnet_hjprune.upstream.s3prl_form import S3prlForm

Weights = Mapping[str, torch.Tensor]


@dataclass(frozen=True)
class Family:
    """A family of upstreams.

    Attributes:
        s3prl: its checkpoints as s3prl loads them.
        adapt: gives a wav2vec 2.0 configuration what every model of the family has; where the
            family has certain sizes only, the smallest of them.
        architectures: its published architectures by name.
        hugging_face: its checkpoints as transformers loads them; ``None`` if they are not read.
        read_stock: makes fairseq's weights of what ESPnet's own ``s3prl`` frontend keeps of the
            family, where that needs more than a look at the names; it gets the weights, the
            configuration that they must fit, and the layer that is read (-1 for the last), and
            returns weights of other families as they are.
    """

    s3prl: S3prlForm
    adapt: Callable[[EncoderConfig], EncoderConfig]
    architectures: Mapping[str, Callable[[], EncoderConfig]]
    hugging_face: HuggingFaceForm | None = None
    read_stock: Callable[[Weights, EncoderConfig, int], Weights] | None = None

    @property
    def forms(self) -> list[Form]:
        """The forms in which checkpoints of the family are read."""
        return [self.s3prl] if self.hugging_face is None else [self.s3prl, self.hugging_face]
