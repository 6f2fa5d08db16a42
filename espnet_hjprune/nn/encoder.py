"""The speech encoder: CNN front end, feature projection, positional embedding, Transformer."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from espnet_hjprune.nn.config import DropoutConfig, EncoderConfig, MaskingConfig
from espnet_hjprune.nn.feature_extractor import FeatureExtractor
from espnet_hjprune.nn.feature_projection import FeatureProjection
from espnet_hjprune.nn.gate_values import NO_GATES, GateValues, scale
from espnet_hjprune.nn.masking import sample_spans
from espnet_hjprune.nn.norms import FeatureNorm, normalise_utterances
from espnet_hjprune.nn.positional_embedding import PositionalConvEmbedding
from espnet_hjprune.nn.transformer import Transformer
from espnet_hjprune.nn.windows import Windows


class SpeechEncoder(nn.Module):
    """Encoder of the wav2vec 2.0 family whose sizes are given layer by layer.

    The same class runs dense models, gated models (pass ``gates``) and compact models (smaller
    sizes in ``config``).

    Args:
        config: sizes.
        dropout: while training; ``None`` for the defaults.
        masking: while training; ``None`` for none.
    """

    output_positions: torch.Tensor | None

    def __init__(
        self,
        config: EncoderConfig,
        dropout: DropoutConfig | None = None,
        masking: MaskingConfig | None = None,
    ) -> None:
        super().__init__()
        self.config = config
        self.masking = masking or MaskingConfig()
        dropout = dropout or DropoutConfig()
        self.feature_extractor = FeatureExtractor(config)
        self.feature_projection = FeatureProjection(config, dropout.input)
        self.mask_embedding = nn.Parameter(
            torch.rand(config.hidden_size), requires_grad=self.masking.time_prob > 0
        )
        self.positional_embedding = PositionalConvEmbedding(config.positional)
        self.transformer = Transformer(config, dropout)
        self.state_norm: FeatureNorm | None = None
        if config.normalize_states:
            self.state_norm = FeatureNorm(config.hidden_size, elementwise_affine=False)
        positions = config.output_positions
        self.register_buffer(
            "output_positions",
            None if positions is None else torch.tensor(positions),
            persistent=False,
        )

    @property
    def output_size(self) -> int:
        """Width of the features that :meth:`forward` returns."""
        return self.config.output_size

    def compile_parts(self, **options: Any) -> None:
        """Compile CNN, projection, positional embedding and Transformer, for audio of any length.

        They become a graph each. One of all would hold for some lengths only, as torch's Inductor
        does not follow the number of frames through the divisions that it comes from.

        Args:
            options: of ``torch.compile``.
        """
        for part in (
            self.feature_extractor,
            self.feature_projection,
            self.positional_embedding,
            self.transformer,
        ):
            part.compile(dynamic=True, **options)

    def freeze_above(self, state: int) -> None:
        """Freeze what state number ``state`` does not depend on.

        Distributed training fails over parameters that never get a gradient.
        """
        self.transformer.freeze_above(state)
        if state == 0 and self.config.first_state == "projected":
            self.positional_embedding.requires_grad_(False)
            self.transformer.norm.requires_grad_(False)

    def frame_lengths(
        self, lengths: torch.Tensor, samples: int, frames: int, batch_invariant: bool = False
    ) -> torch.Tensor:
        """Valid frames of utterances with ``lengths`` samples, padded to ``samples``.

        ``frames`` is what the CNN made of the padded batch; ``batch_invariant`` counts those that
        it makes of each utterance without padding.
        """
        if self.config.length_rule == "chunk" and not batch_invariant:
            chunk = samples // frames
            counted = torch.div(lengths + chunk - 1, chunk, rounding_mode="floor")
            return counted.clamp(min=1, max=frames)
        for layer in self.config.conv_layers:
            lengths = torch.div(lengths - layer.kernel, layer.stride, rounding_mode="floor") + 1
        return lengths.clamp(min=1)

    def forward(
        self,
        wave: torch.Tensor,
        lengths: torch.Tensor,
        gates: GateValues | None = None,
        all_states: bool = False,
        batch_invariant: bool = False,
        windows: Windows | None = None,
    ) -> tuple[list[torch.Tensor], torch.Tensor]:
        """Encode a padded batch.

        Args:
            wave: ``(batch, samples)`` at 16 kHz, zero after the end of an utterance.
            lengths: ``(batch,)`` samples.
            gates: gate values of this pass; ``None`` for none.
            all_states: return the input of every Transformer layer too; the first state is what
                ``config.first_state`` says.
            batch_invariant: give each utterance the states that it has without padding. As in
                s3prl, they otherwise depend on the batch, through the GroupNorm of the first layer.
            windows: within which the Transformer attends, as its memory and time grow with the
                square of the length; ``None`` for the whole. All before it reads the whole.

        Returns:
            The states, each ``(batch, time, output_size)``, the last being the output, and the
            valid frames ``(batch,)``. Padding frames hold values without meaning.
        """
        gates = gates or NO_GATES
        shortest = self.config.receptive_field
        samples = wave.shape[1]
        if samples < shortest:
            wave = F.pad(wave, (0, shortest - samples))
            samples = shortest
        if self.config.normalize_input:
            wave = normalise_utterances(wave, lengths, self.config.normalize_epsilon)
        if batch_invariant:
            lengths = lengths.clamp(min=shortest)
        x = self.feature_extractor(wave, gates, lengths if batch_invariant else None)
        frames = x.shape[1]
        frame_lengths = self.frame_lengths(lengths, samples, frames, batch_invariant)
        inside = torch.arange(frames, device=x.device) < frame_lengths.unsqueeze(1)
        x = self.feature_projection(x, gates)
        x = self.mask_features(x, frame_lengths, gates)
        padding = ~inside.unsqueeze(-1)
        x = x.masked_fill(padding, 0.0)
        positions = self.positional_embedding(x, gates.hidden, padding if batch_invariant else None)
        mask = inside[:, None, None]
        if windows is not None and frames > windows.size:
            states = self.in_windows(x + positions, mask, gates, windows, all_states)
        else:
            states = self.transformer(x + positions, mask, gates)
        if self.config.first_state == "projected" and len(states) > len(self.transformer.layers):
            states[0] = x
        if not all_states:
            states = states[-1:]
        return [self.present(state, gates) for state in states], frame_lengths

    def in_windows(
        self,
        x: torch.Tensor,
        mask: torch.Tensor,
        gates: GateValues,
        windows: Windows,
        all_states: bool,
    ) -> list[torch.Tensor]:
        """States of the Transformer, window by window, without those that nobody asks for.

        Utterances of the batch that fit into the first window have all of it from there.
        """
        is_long = mask.sum(-1) > windows.size
        found: list[torch.Tensor] = []
        for window in windows.cover(x.shape[1]):
            read, kept = slice(window.start, window.stop), slice(window.begin, window.end)
            states = self.transformer(x[:, read], mask[..., read], gates)
            states = states if all_states else states[-1:]
            if not found:
                missing = x.shape[1] - window.stop
                found = [F.pad(state, (0, 0, 0, missing)) for state in states]
                continue
            for whole, state in zip(found, states, strict=True):
                whole[:, kept] = torch.where(is_long, state[:, window.kept], whole[:, kept])
        return found

    def mask_features(
        self, x: torch.Tensor, lengths: torch.Tensor, gates: GateValues
    ) -> torch.Tensor:
        """Replace random time spans by the mask embedding and zero random feature spans."""
        options = self.masking
        if not self.training or (options.time_prob == 0 and options.channel_prob == 0):
            return x
        batch, frames, width = x.shape
        if options.time_prob > 0:
            spans = sample_spans(
                lengths, frames, options.time_prob, options.time_length, options.min_time_spans
            )
            embedding: torch.Tensor = self.mask_embedding
            if gates.hidden is not None:
                embedding = scale(embedding, gates.hidden.keep, 0)
            x = torch.where(spans.unsqueeze(-1), embedding.to(x.dtype), x)
        if options.channel_prob > 0:
            widths = torch.full((batch,), width, device=x.device)
            spans = sample_spans(widths, width, options.channel_prob, options.channel_length, 0)
            x = x.masked_fill(spans.unsqueeze(1), 0.0)
        return x

    def present(self, state: torch.Tensor, gates: GateValues) -> torch.Tensor:
        """What a reader sees of a state: closed features are zero, at full width."""
        if self.state_norm is not None:
            state = self.state_norm(state, gates.hidden)
        elif gates.hidden is not None:
            state = scale(state, gates.hidden.keep, -1)
        if self.output_positions is not None:
            full = state.new_zeros(*state.shape[:-1], self.config.output_size)
            state = full.index_copy(-1, self.output_positions, state)
        return state
