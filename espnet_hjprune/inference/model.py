"""Recognisers made of a speech encoder and one linear layer, read without ESPnet.

ESPnet takes long to import; these models need nothing of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from espnet_hjprune.config_file import read_config
from espnet_hjprune.errors import HJPruneError
from espnet_hjprune.model.espnet_config import plugin_option
from espnet_hjprune.model.loading import build_upstream
from espnet_hjprune.model.model_dir import read_weights
from espnet_hjprune.model.upstream import SpeechUpstream
from espnet_hjprune.nn.windows import Windows

# Labels of a classifier lack <blank> and <unk>, which come first in a token list.
FIRST_LABEL = 2
POOLINGS = ("mean", "max", "CLS")


class BatchInvariantModel(nn.Module):
    """A model that gives an utterance what it gives it alone, whatever else is in the batch.

    Attributes:
        upstream: its speech encoder.
    """

    def __init__(self, upstream: SpeechUpstream) -> None:
        super().__init__()
        self.upstream = upstream


class Recogniser(BatchInvariantModel):
    """Speech encoder, optional linear layer, and the linear layer of a CTC model or a classifier.

    Attributes:
        tokens: the token list, ``<blank>`` first and ``<sos/eos>`` last.
        token_type: ``char``, ``bpe`` or ``word``.
        bpemodel: file of the sentencepiece model; for ``bpe`` only.
        pooling: how a classifier pools frames; ``None`` for CTC.
    """

    def __init__(
        self,
        upstream: SpeechUpstream,
        projection: nn.Linear | None,
        head: nn.Linear,
        tokens: list[str],
        token_type: str,
        bpemodel: str | None,
        pooling: str | None,
    ) -> None:
        super().__init__(upstream)
        self.projection = projection
        self.head = head
        self.tokens = tokens
        self.token_type = token_type
        self.bpemodel = bpemodel
        self.pooling = pooling

    @property
    def classifies(self) -> bool:
        """Whether there is one label for an utterance instead of a transcript."""
        return self.pooling is not None

    def convert(self, dtype: torch.dtype) -> Recogniser:
        """Give all weights a type, but not gates, which say in float32 what is closed."""
        pruner, self.upstream.pruner = self.upstream.pruner, None
        self.to(dtype)
        self.upstream.pruner = pruner
        return self

    def forward(
        self, wave: torch.Tensor, lengths: torch.Tensor, windows: Windows | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Log probabilities of a padded batch, in float32 whatever type the weights have.

        Args:
            wave: ``(batch, samples)`` in float32 at 16 kHz, zero after the end of an utterance.
            lengths: ``(batch,)`` samples.
            windows: within which the Transformer attends; ``None`` for the whole utterance.

        Returns:
            ``(batch, time, token)``, or ``(batch, label)`` of a classifier, whose first label is
            number ``FIRST_LABEL`` of the tokens; and the valid frames ``(batch,)``.
        """
        features, frames = self.upstream(wave, lengths, True, windows)
        if self.projection is not None:
            features = self.projection(features)
        if self.pooling is not None:
            features = pool(features, frames, self.pooling)
        return self.head(features).log_softmax(-1, dtype=torch.float32), frames


def pool(features: torch.Tensor, frames: torch.Tensor, pooling: str) -> torch.Tensor:
    """Reduce ``(batch, time, width)`` to ``(batch, width)`` over the valid frames.

    Sums are in float32, as float16 ends at 65504.
    """
    positions = torch.arange(features.shape[1], device=features.device)
    inside = (positions < frames.unsqueeze(1)).unsqueeze(-1)
    if pooling == "mean":
        total = features.masked_fill(~inside, 0.0).sum(1, dtype=torch.float32)
        return (total / frames.unsqueeze(1)).to(features.dtype)
    if pooling == "max":
        return features.masked_fill(~inside, float("-inf")).amax(1)
    return features[:, 0]


def load_recogniser(train_config: str | Path, model_file: str | Path) -> Recogniser:
    """Build the model of an ESPnet configuration and load its weights.

    Returns:
        The model in evaluation mode.

    Raises:
        HJPruneError: a file is missing, weights do not fit, or the model has other parts, which
            only ESPnet's own decoding knows.
    """
    config = read_config(train_config)
    option = plugin_option(config, train_config)
    pooling = _check_parts(config, option, train_config)
    state = read_weights(model_file)
    upstream = build_upstream(config, train_config, state, model_file)
    projection = None
    if config.get("preencoder"):
        projection = _linear(state, "preencoder.linear_out", model_file)
    name = "ctc.ctc_lo" if pooling is None else "decoder.linear_out"
    head = _linear(state, name, model_file)
    return Recogniser(
        upstream,
        projection,
        head,
        list(config["token_list"]),
        config.get("token_type", "char"),
        config.get("bpemodel"),
        pooling,
    ).eval()


def _check_parts(config: Mapping[str, Any], option: str, source: str | Path) -> str | None:
    """Refuse models that have more than linear layers; return a classifier's pooling."""
    found: list[str] = []
    if option not in ("frontend", "encoder"):
        found.append(f"{option}: hj_prune")
    for name in ("frontend", "encoder", "normalize", "postencoder"):
        if name != option and config.get(name):
            found.append(f"{name}: {config[name]}")
    if config.get("preencoder") not in (None, "linear"):
        found.append(f"preencoder: {config['preencoder']}")
    model_conf = config.get("model_conf") or {}
    weight = model_conf.get("ctc_weight", 0.5)
    if config.get("decoder") and weight < 1.0 and config["decoder"] != "linear_decoder":
        found.append(f"decoder: {config['decoder']}")
    if not isinstance(config.get("token_list"), list):
        found.append("no token_list")
    if found:
        raise HJPruneError(
            f"the model of {source} has {', '.join(found)}, which only ESPnet's own decoding "
            "knows; use --decoder espnet in a recipe (asr_inference), --encoder_only for an export"
        )
    if weight == 1.0:
        return None
    if config.get("decoder") != "linear_decoder" or weight > 0.0:
        raise HJPruneError(
            f"the model of {source} is neither CTC alone (ctc_weight: 1.0) nor a linear classifier "
            "of the asr task (ctc_weight: 0.0); use --decoder espnet in a recipe (asr_inference)"
        )
    pooling = (config.get("decoder_conf") or {}).get("pooling", "mean")
    if pooling not in POOLINGS:
        raise HJPruneError(f"{source} has pooling {pooling}, which is none of {POOLINGS}")
    return pooling


def _linear(state: Mapping[str, torch.Tensor], name: str, source: str | Path) -> nn.Linear:
    """The linear layer of a module path."""
    if f"{name}.weight" not in state or f"{name}.bias" not in state:
        raise HJPruneError(f"{source} has no weights of {name}; is it the model of --train_config?")
    weight, bias = state[f"{name}.weight"], state[f"{name}.bias"]
    layer = nn.Linear(weight.shape[1], weight.shape[0])
    layer.load_state_dict({"weight": weight, "bias": bias})
    return layer
