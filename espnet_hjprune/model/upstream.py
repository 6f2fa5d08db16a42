"""A speech encoder with its gates, as a module of any PyTorch model."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from espnet_hjprune.errors import HJPruneError
from espnet_hjprune.model.alignment import aligned
from espnet_hjprune.model.model_dir import read_encoder
from espnet_hjprune.model.upstream_options import OWN_NAME, UpstreamOptions
from espnet_hjprune.nn.config import EncoderConfig
from espnet_hjprune.nn.encoder import SpeechEncoder
from espnet_hjprune.nn.fusion import check_compiler
from espnet_hjprune.nn.gate_values import GateValues
from espnet_hjprune.nn.windows import Windows
from espnet_hjprune.pruning.config import PruningConfig
from espnet_hjprune.pruning.pruner import Pruner
from espnet_hjprune.upstream import ReadOptions, read_upstream
from espnet_hjprune.upstream.read import override_normalization


class SpeechUpstream(nn.Module):
    """Self-supervised speech features with prunable units.

    Args:
        options: where the encoder comes from and what of it is read.

    Raises:
        HJPruneError: a wrong option, upstream or checkpoint, or a target that cannot be met.

    Attributes:
        options: what it was made from.
        encoder: the encoder, dense or compact.
        has_weights: whether weights were loaded, from a checkpoint or by ``load_state_dict``.
        pruner: gates and constraint; ``None`` without.

    Example:
        >>> upstream = SpeechUpstream(UpstreamOptions("wav2vec2_local", "upstream.pt"))
        >>> features, frames = upstream(torch.randn(2, 16000), torch.tensor([16000, 12000]))
        >>> features.shape, frames
        (torch.Size([2, 49, 768]), tensor([49, 37]))
    """

    def __init__(self, options: UpstreamOptions) -> None:
        super().__init__()
        self.options = options
        state: dict[str, torch.Tensor] | None = None
        if options.architecture is not None:
            config = override_normalization(
                options.architecture, options.normalize_input, "the architecture"
            )
        else:
            config, state = self._read()
        if options.normalize:
            config = replace(config, normalize_states=True)
        self.encoder = SpeechEncoder(config, options.dropout, options.masking)
        # Random weights are of no use; who trains must have loaded some.
        self.has_weights = False
        self.encoder.register_load_state_dict_post_hook(self._note_weights)
        if state is not None:
            try:
                self.encoder.load_state_dict(state)
            except RuntimeError as error:
                raise HJPruneError(
                    f"the weights of {options.path_or_url or options.upstream} are not those of "
                    f"its architecture ({' '.join(str(error).split())[:200]})"
                ) from error
        layers = len(config.heads) + 1
        if not -1 <= options.layer < layers:
            raise HJPruneError(
                f"layer {options.layer} does not exist; it is -1 or 0 to {layers - 1}"
            )
        if options.layer != -1:
            self.encoder.freeze_above(options.layer)
        self.layer_weights = (
            nn.Parameter(torch.zeros(layers)) if options.multilayer_feature else None
        )
        self.pruner: Pruner | None = None
        self._held: GateValues | None = None
        if options.pruning is not None:
            self.add_gates(options.pruning)

    def _read(self) -> tuple[EncoderConfig, dict[str, torch.Tensor]]:
        """Architecture and weights of the upstream that the options name."""
        options = self.options
        if options.upstream == OWN_NAME:
            config, state = read_encoder(options.path_or_url)
            source = str(options.path_or_url)
            return override_normalization(config, options.normalize_input, source), state
        assert options.upstream is not None
        reading = ReadOptions(
            options.download_dir,
            options.trust_checkpoint,
            options.normalize_input,
            options.init_ctc,
        )
        return read_upstream(options.upstream, options.path_or_url, reading)

    @property
    def last_state(self) -> int:
        """Number of the hidden state that is read, 0 being the input of the first layer."""
        return self.options.layer if self.options.layer != -1 else len(self.config.heads)

    def _note_weights(self, *_: Any) -> None:
        """Hook of the encoder's ``load_state_dict``."""
        self.has_weights = True

    def add_gates(self, options: PruningConfig) -> Pruner:
        """Put gates on the units of the encoder, all of them open.

        With ``round_to: auto`` alignments are measured first, where the encoder is; the options of
        the pruner have the number.

        Raises:
            HJPruneError: there are gates already, or the target cannot be met.
        """
        if self.pruner is not None:
            raise HJPruneError("the upstream has gates already; compact it before it gets new ones")
        device = self.encoder.mask_embedding.device
        self.pruner = Pruner(self.config, aligned(options, self.config, device))
        self.pruner.to(device)
        logging.info("Gates on %s units", self.pruner.gates.log_alpha.numel())
        return self.pruner

    @contextmanager
    def without_gates(self) -> Iterator[None]:
        """Let the encoder run as if it had no gates."""
        pruner, self.pruner = self.pruner, None
        try:
            yield
        finally:
            self.pruner = pruner

    @contextmanager
    def gates_held_at(self, values: GateValues) -> Iterator[None]:
        """Let the encoder run with these gates, whether it has some of its own or not."""
        before, self._held = self._held, values
        try:
            yield
        finally:
            self._held = before

    def compile_encoder(self, **options: Any) -> None:
        """Let ``torch.compile`` make the encoder's parts, which takes minutes at the first step.

        A copy of the upstream is not compiled.

        Args:
            options: of ``torch.compile``.

        Raises:
            HJPruneError: there is no compiler.
        """
        check_compiler()
        self.encoder.compile_parts(**options)

    def reload_pretrained_parameters(self) -> None:
        """Load the upstream's weights again, where something has initialised them anew.

        An upstream that is described by its architecture has no such weights.
        """
        if self.options.architecture is None:
            self.encoder.load_state_dict(self._read()[1])
        if self.layer_weights is not None:
            nn.init.zeros_(self.layer_weights)
        if self.pruner is not None:
            self.pruner.gates.reset()
            self.pruner.constraint.reset()

    @property
    def config(self) -> EncoderConfig:
        """Architecture of the encoder."""
        return self.encoder.config

    @property
    def layer(self) -> int:
        """Number of the hidden state that is read; -1 for the last one."""
        return self.options.layer

    def output_size(self) -> int:
        """Width of the features."""
        return self.encoder.output_size

    def forward(
        self,
        wave: torch.Tensor,
        lengths: torch.Tensor,
        batch_invariant: bool = False,
        windows: Windows | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Encode a padded batch.

        Args:
            wave: ``(batch, samples)`` or ``(batch, samples, 1)`` at 16 kHz, zero after the end of
                an utterance.
            lengths: ``(batch,)`` samples.
            batch_invariant: give each utterance the features that it has alone in its batch.
            windows: within which the Transformer attends; ``None`` for the whole.

        Returns:
            Features ``(batch, time, width)`` and valid frames ``(batch,)``.

        Raises:
            HJPruneError: several channels, or gates in training that no optimiser trains.
        """
        if wave.dim() == 3 and wave.shape[2] == 1:
            wave = wave.squeeze(2)
        if wave.dim() != 2:
            raise HJPruneError(
                f"hj_prune takes single-channel audio, not a batch of shape {tuple(wave.shape)}"
            )
        gates = self.pruner() if self.pruner is not None and self._held is None else self._held
        all_states = self.layer != -1 or self.layer_weights is not None
        states, frames = self.encoder(wave, lengths, gates, all_states, batch_invariant, windows)
        if self.layer_weights is not None:
            shares = self.layer_weights.softmax(0)
            features = torch.einsum("l,lbtd->btd", shares, torch.stack(states))
        else:
            features = states[self.layer]
        if self.options.tile_factor != 1:
            features = features.repeat_interleave(self.options.tile_factor, dim=1)
            frames = frames * self.options.tile_factor
        return features, frames
