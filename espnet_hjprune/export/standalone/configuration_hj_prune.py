"""Configuration of a pruned speech encoder for transformers; written by ``hjprune export``."""

import math
from typing import Any

from transformers import PretrainedConfig


class HJPruneConfig(PretrainedConfig):
    """Sizes of a pruned model.

    Args:
        architecture: the encoder's sizes, layer by layer.
        layer: the hidden state that a head reads; -1 for the last one.
        multilayer_feature: whether a head reads a learned weighted sum of all hidden states.
        tile_factor: how often every frame is repeated for the head.
        projection_size: features between the encoder and the head; 0 for no such layer.
        pooling: how a classifier pools the frames: ``mean``, ``max`` or ``CLS``.
        dropout: probability while training.
        vocab_size: tokens of a CTC model.
        pad_token_id: CTC's blank.
        ctc_loss_reduction: ``mean``, of what each utterance loses per label, or ``sum``.
        ctc_zero_infinity: whether utterances too short for their labels count nothing.
        options: transformers' own.
    """

    model_type = "hj_prune"

    def __init__(
        self,
        architecture: dict[str, Any] | None = None,
        layer: int = -1,
        multilayer_feature: bool = False,
        tile_factor: int = 1,
        projection_size: int = 0,
        pooling: str = "mean",
        dropout: float = 0.1,
        vocab_size: int = 32,
        pad_token_id: int = 0,
        ctc_loss_reduction: str = "mean",
        ctc_zero_infinity: bool = True,
        **options: Any,
    ) -> None:
        self.architecture = architecture
        self.layer = layer
        self.multilayer_feature = multilayer_feature
        self.tile_factor = tile_factor
        self.projection_size = projection_size
        self.pooling = pooling
        self.dropout = dropout
        self.vocab_size = vocab_size
        self.ctc_loss_reduction = ctc_loss_reduction
        self.ctc_zero_infinity = ctc_zero_infinity
        # What readers of configurations look for.
        sizes = architecture or {"conv_layers": [], "hidden_size": 0, "heads": []}
        self.hidden_size = sizes.get("output_width") or sizes["hidden_size"]
        self.num_hidden_layers = len(sizes["heads"])
        self.conv_kernel = [layer["kernel"] for layer in sizes["conv_layers"]]
        self.conv_stride = [layer["stride"] for layer in sizes["conv_layers"]]
        super().__init__(pad_token_id=pad_token_id, **options)

    @property
    def inputs_to_logits_ratio(self) -> int:
        """Samples from one frame of the output to the next."""
        return math.prod(self.conv_stride) // self.tile_factor
