"""The part that the ``hj_prune`` frontend and encoder share."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from espnet_hjprune.errors import HJPruneError
from espnet_hjprune.model.distillation import DistillationConfig
from espnet_hjprune.nn.config import DropoutConfig, EncoderConfig, MaskingConfig
from espnet_hjprune.nn.encoder import SpeechEncoder
from espnet_hjprune.nn.gate_values import GateValues
from espnet_hjprune.options import build_dataclass
from espnet_hjprune.pruning.config import PruningConfig
from espnet_hjprune.pruning.pruner import Pruner
from espnet_hjprune.upstream import read_upstream

UPSTREAM_OPTIONS = (
    "upstream",
    "path_or_url",
    "architecture",
    "tile_factor",
    "normalize",
    "extra_conf",
)


@dataclass
class HiddenStates:
    """Hidden states of one forward pass.

    Attributes:
        states: input of every Transformer layer and output, each ``(batch, time, hidden)``.
        frames: valid frames ``(batch,)``.
        keep: ``(hidden,)``, 0 for features that were closed; ``None`` where none are.
    """

    states: list[torch.Tensor]
    frames: torch.Tensor
    keep: torch.Tensor | None


class SpeechUpstream(nn.Module):
    """A speech encoder from an s3prl upstream or from an inline architecture, with its gates.

    Args:
        upstream_conf: ``upstream`` and ``path_or_url`` as ESPnet's ``s3prl`` frontend takes
            them. The architecture that was found is written back under ``architecture``, so
            that the configuration which ESPnet saves with the model builds it again without
            s3prl and without the checkpoint; weights then come from the model file. ``normalize``
            normalises every state over its features, ``tile_factor`` repeats every frame.
        download_dir: where s3prl keeps downloads.
        multilayer_feature: return a learned weighted sum of all layers.
        layer: return this layer instead of the last one.
        dropout: options of :class:`DropoutConfig`.
        masking: options of :class:`MaskingConfig`.
        pruning: options of :class:`PruningConfig`; ``None`` for no gates.
        distillation: options of :class:`DistillationConfig`; ``None`` for no teacher.

    Raises:
        HJPruneError: a wrong option, upstream or checkpoint, or a target that cannot be met.
    """

    def __init__(
        self,
        upstream_conf: dict[str, Any] | None,
        download_dir: str | None = None,
        multilayer_feature: bool = False,
        layer: int = -1,
        dropout: Mapping[str, float] | None = None,
        masking: Mapping[str, float] | None = None,
        pruning: Mapping[str, Any] | None = None,
        distillation: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        options = upstream_conf if upstream_conf is not None else {}
        unknown = sorted(set(options) - set(UPSTREAM_OPTIONS))
        if unknown:
            raise HJPruneError(
                f"hj_prune has no upstream option {', '.join(unknown)}; it takes "
                f"{', '.join(UPSTREAM_OPTIONS)}"
            )
        if options.get("extra_conf"):
            raise HJPruneError(
                "hj_prune gives s3prl's default hidden states; remove extra_conf, which alters them"
            )
        if multilayer_feature and layer != -1:
            raise HJPruneError("multilayer_feature and layer cannot be used together; remove one")
        dropout_config = build_dataclass(DropoutConfig, dropout, "dropout")
        masking_config = build_dataclass(MaskingConfig, masking, "masking")
        state: dict[str, torch.Tensor] | None = None
        self.weights_loaded = False
        self.source: tuple[str, str | None, str | None] | None = None
        if options.get("architecture"):
            config = EncoderConfig.from_dict(options["architecture"])
        elif options.get("upstream"):
            self.source = (options["upstream"], options.get("path_or_url"), download_dir)
            config, state = read_upstream(*self.source)
            options["architecture"] = config.to_dict()
        else:
            raise HJPruneError("hj_prune needs the name of an s3prl upstream in option upstream")
        if options.get("normalize"):
            config = replace(config, normalize_states=True)
            options["architecture"] = config.to_dict()
        self.encoder = SpeechEncoder(config, dropout_config, masking_config)
        if state is not None:
            self.encoder.load_state_dict(state)
            self.weights_loaded = True
        self.encoder.register_load_state_dict_post_hook(self._note_loaded)
        layers = len(config.heads) + 1
        if not -1 <= layer < layers:
            raise HJPruneError(f"layer {layer} does not exist; it is -1 or 0 to {layers - 1}")
        self.layer = layer
        if layer != -1:
            self.encoder.freeze_above(layer)
        self.tile_factor = int(options.get("tile_factor", 1))
        self.layer_weights = nn.Parameter(torch.zeros(layers)) if multilayer_feature else None
        self.pruner = (
            Pruner(config, PruningConfig.from_dict(pruning)) if pruning is not None else None
        )
        self.constraint_in_loss = False
        self.distillation = (
            DistillationConfig.from_dict(distillation) if distillation is not None else None
        )
        # Keep the hidden states of a forward pass in `hidden_states`.
        self.keeps_states = False
        self.hidden_states: HiddenStates | None = None
        if self.pruner is not None:
            logging.info("Gates on %s units", self.pruner.gates.log_alpha.numel())

    def _note_loaded(self, *_: Any) -> None:
        self.weights_loaded = True

    def reload_pretrained_parameters(self) -> None:
        """Load the upstream's weights again, after ESPnet's ``init`` has overwritten them."""
        if self.source is not None:
            self.encoder.load_state_dict(read_upstream(*self.source)[1])
        if self.layer_weights is not None:
            nn.init.zeros_(self.layer_weights)
        if self.pruner is not None:
            self.pruner.gates.reset()
            self.pruner.constraint.reset()

    @property
    def config(self) -> EncoderConfig:
        """Architecture of the encoder."""
        return self.encoder.config

    def output_size(self) -> int:
        """Width of the features."""
        return self.encoder.output_size

    def forward(
        self, wave: torch.Tensor, lengths: torch.Tensor, batch_invariant: bool = False
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Encode ``(batch, samples)`` to ``(batch, time, width)`` and valid frames ``(batch,)``.

        ``batch_invariant`` gives each utterance the features that it has alone in its batch.

        Raises:
            HJPruneError: training without the constraint, or from random weights.
        """
        if wave.dim() == 3 and wave.shape[2] == 1:
            wave = wave.squeeze(2)
        if wave.dim() != 2:
            raise HJPruneError(
                f"hj_prune takes single-channel audio, not a batch of shape {tuple(wave.shape)}"
            )
        if self.training:
            self._check_training()
        gates = self.pruner() if self.pruner is not None else None
        every = self.layer != -1 or self.layer_weights is not None or self.keeps_states
        states, frames = self.encoder(wave, lengths, gates, every, batch_invariant)
        if self.keeps_states:
            self.hidden_states = self._hidden_states(states, frames, gates)
        if self.layer_weights is not None:
            shares = self.layer_weights.softmax(0)
            features = torch.einsum("l,lbtd->btd", shares, torch.stack(states))
        else:
            features = states[self.layer]
        if self.tile_factor != 1:
            features = features.repeat_interleave(self.tile_factor, dim=1)
            frames = frames * self.tile_factor
        return features, frames

    def _hidden_states(
        self, states: list[torch.Tensor], frames: torch.Tensor, gates: GateValues | None
    ) -> HiddenStates:
        # The layers above are frozen.
        read = states if self.layer == -1 else states[: self.layer + 1]
        if self.encoder.output_positions is not None:
            read = [state[..., self.encoder.output_positions] for state in read]
        hidden = gates.hidden if gates is not None else None
        return HiddenStates(read, frames, None if hidden is None else hidden.keep)

    def _check_training(self) -> None:
        if not self.weights_loaded:
            raise HJPruneError(
                "the upstream is described by architecture but has random weights; give the "
                "model file by --init_param, or remove architecture so that the upstream is loaded"
            )
        if self.pruner is not None and not self.constraint_in_loss:
            raise HJPruneError(
                "the gates have no constraint in the loss, as the model was not built by a task of "
                "ESPnet; import espnet_hjprune and build it by the task's build_model"
            )
