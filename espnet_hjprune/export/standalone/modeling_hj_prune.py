"""A pruned speech encoder as models of transformers; written by ``hjprune export``.

``AutoModel``, ``AutoModelForCTC`` and ``AutoModelForAudioClassification`` load them with
``trust_remote_code=True``. They take ``input_values`` ``(batch, samples)`` at 16 kHz between -1 and
1, and ``attention_mask`` of the same shape where the batch is padded; audio that must be normalised
is normalised inside.
"""

import torch
import torch.nn.functional as F
from torch import nn
from transformers import PreTrainedModel
from transformers.modeling_outputs import (
    BaseModelOutput,
    CausalLMOutput,
    SequenceClassifierOutput,
)

from .configuration_hj_prune import HJPruneConfig
from .hj_prune_encoder import HJPruneEncoder


class HJPrunePreTrainedModel(PreTrainedModel):
    """What the models share."""

    config_class = HJPruneConfig
    base_model_prefix = "hj_prune"
    main_input_name = "input_values"
    _supports_sdpa = True


class HJPruneModel(HJPrunePreTrainedModel):
    """The encoder.

    Example:
        >>> model = AutoModel.from_pretrained(directory, trust_remote_code=True)
        >>> model(torch.randn(1, 16000)).last_hidden_state.shape
        torch.Size([1, 49, 768])
    """

    def __init__(self, config: HJPruneConfig) -> None:
        super().__init__(config)
        self.encoder = HJPruneEncoder(config.architecture, config.dropout)
        states = config.num_hidden_layers + 1
        self.layer_weights = None
        if config.multilayer_feature:
            self.layer_weights = nn.Parameter(torch.zeros(states))
        self.post_init()

    def frames(self, samples: torch.Tensor) -> torch.Tensor:
        """Frames ``(batch,)`` of utterances of so many samples ``(batch,)``."""
        return self.encoder.frames(samples)

    def forward(
        self,
        input_values: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        **_: object,
    ) -> BaseModelOutput | tuple:
        """The last hidden state ``(batch, time, width)``, and all of them where asked for."""
        states, _ = self.encode(input_values, attention_mask)
        output = BaseModelOutput(
            last_hidden_state=states[-1],
            hidden_states=_shown(self.config, output_hidden_states, states),
        )
        return output if _returns_dict(self.config, return_dict) else output.to_tuple()

    def encode(
        self, input_values: torch.Tensor, attention_mask: torch.Tensor | None
    ) -> tuple[list[torch.Tensor], torch.Tensor]:
        """All hidden states, and the valid frames ``(batch,)``."""
        if attention_mask is None:
            lengths = torch.full_like(input_values[:, 0], input_values.shape[1], dtype=torch.long)
        else:
            lengths = attention_mask.sum(1).long()
            input_values = input_values * (attention_mask > 0)
        return self.encoder(input_values, lengths)

    def features(self, states: list[torch.Tensor]) -> torch.Tensor:
        """What a head reads: one hidden state or a weighted sum of all, as it was trained."""
        x = states[self.config.layer]
        if self.layer_weights is not None:
            shares = self.layer_weights.softmax(0)
            x = torch.einsum("l,lbtd->btd", shares, torch.stack(states))
        return x.repeat_interleave(self.config.tile_factor, dim=1)


class HJPruneHead(HJPrunePreTrainedModel):
    """An encoder with linear layers on top."""

    def __init__(self, config: HJPruneConfig, outputs: int) -> None:
        super().__init__(config)
        self.hj_prune = HJPruneModel(config)
        width = config.hidden_size
        self.projector: nn.Module = nn.Identity()
        if config.projection_size:
            self.projector = nn.Linear(width, config.projection_size)
            width = config.projection_size
        self.head = nn.Linear(width, outputs)
        self.post_init()

    def freeze_feature_encoder(self) -> None:
        """Keep the CNN as it is while training."""
        self.hj_prune.encoder.feature_extractor.requires_grad_(False)

    def read(
        self, input_values: torch.Tensor, attention_mask: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor, list[torch.Tensor]]:
        """Features below the head, valid frames ``(batch,)``, and all hidden states."""
        states, frames = self.hj_prune.encode(input_values, attention_mask)
        features = self.projector(self.hj_prune.features(states))
        return features, frames * self.config.tile_factor, states


class HJPruneForCTC(HJPruneHead):
    """A CTC model.

    Example:
        >>> recognise = pipeline("automatic-speech-recognition", directory, trust_remote_code=True)
        >>> recognise("audio.wav")["text"]
        'SET WHITE AT B NINE NOW'
    """

    def __init__(self, config: HJPruneConfig) -> None:
        super().__init__(config, config.vocab_size)

    def _get_feat_extract_output_lengths(self, input_lengths: torch.Tensor) -> torch.Tensor:
        """Frames of utterances of so many samples, under the name that transformers looks for."""
        return self.hj_prune.frames(input_lengths) * self.config.tile_factor

    def forward(
        self,
        input_values: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        labels: torch.Tensor | None = None,
        **_: object,
    ) -> CausalLMOutput | tuple:
        """Logits ``(batch, time, token)``, and the loss if there are labels.

        ``labels`` is ``(batch, tokens)``, negative where there is no token.
        """
        features, frames, states = self.read(input_values, attention_mask)
        logits = self.head(features)
        loss = None
        if labels is not None:
            there = labels >= 0
            log_probs = logits.log_softmax(-1, dtype=torch.float32).transpose(0, 1)
            loss = F.ctc_loss(
                log_probs,
                labels[there],
                frames,
                there.sum(1),
                blank=self.config.pad_token_id,
                reduction=self.config.ctc_loss_reduction,
                zero_infinity=self.config.ctc_zero_infinity,
            )
        output = CausalLMOutput(
            loss=loss,
            logits=logits,
            hidden_states=_shown(self.config, output_hidden_states, states),
        )
        return output if _returns_dict(self.config, return_dict) else output.to_tuple()


class HJPruneForAudioClassification(HJPruneHead):
    """A classifier of whole utterances."""

    def __init__(self, config: HJPruneConfig) -> None:
        super().__init__(config, config.num_labels)

    def forward(
        self,
        input_values: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        labels: torch.Tensor | None = None,
        **_: object,
    ) -> SequenceClassifierOutput | tuple:
        """Logits ``(batch, label)``, and the loss if there are labels ``(batch,)``."""
        features, frames, states = self.read(input_values, attention_mask)
        inside = torch.arange(features.shape[1], device=features.device) < frames[:, None]
        inside = inside[..., None]
        if self.config.pooling == "mean":
            total = features.masked_fill(~inside, 0.0).sum(1, dtype=torch.float32)
            pooled = (total / frames[:, None]).to(features.dtype)
        elif self.config.pooling == "max":
            pooled = features.masked_fill(~inside, float("-inf")).amax(1)
        else:
            pooled = features[:, 0]
        logits = self.head(pooled)
        loss = F.cross_entropy(logits.float(), labels) if labels is not None else None
        output = SequenceClassifierOutput(
            loss=loss,
            logits=logits,
            hidden_states=_shown(self.config, output_hidden_states, states),
        )
        return output if _returns_dict(self.config, return_dict) else output.to_tuple()


def _returns_dict(config: HJPruneConfig, return_dict: bool | None) -> bool:
    return getattr(config, "return_dict", True) if return_dict is None else return_dict


def _shown(
    config: HJPruneConfig, output_hidden_states: bool | None, states: list[torch.Tensor]
) -> tuple[torch.Tensor, ...] | None:
    """All hidden states, where they are asked for."""
    if output_hidden_states is None:
        output_hidden_states = config.output_hidden_states
    return tuple(states) if output_hidden_states else None
