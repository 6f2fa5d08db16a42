"""The ``hj_prune`` encoder, for ``frontend: null`` and ``input_size: 1``."""

from __future__ import annotations

from typing import Any

import torch
from espnet2.asr.encoder.abs_encoder import AbsEncoder

from espnet_hjprune.errors import HJPruneError
from espnet_hjprune.espnet.short_audio import refuse_short_audio
from espnet_hjprune.model.upstream import SpeechUpstream
from espnet_hjprune.model.upstream_options import UpstreamOptions


class HJPruneEncoder(AbsEncoder):
    """Self-supervised encoder with prunable units, on raw audio.

    Args:
        input_size: must be 1, for samples.
        upstream_conf: ``upstream``, ``path_or_url``; see :class:`UpstreamOptions`, also for the
            other options. They are all named here because ESPnet reads them off the signature.

    Raises:
        HJPruneError: a wrong option, upstream or checkpoint, or a target that cannot be met.
    """

    def __init__(
        self,
        input_size: int = 1,
        upstream_conf: dict[str, Any] | None = None,
        download_dir: str | None = None,
        multilayer_feature: bool = False,
        layer: int = -1,
        dropout: dict[str, float] | None = None,
        masking: dict[str, float] | None = None,
        pruning: dict[str, Any] | None = None,
        distillation: dict[str, Any] | None = None,
        compile: bool = False,
    ) -> None:
        super().__init__()
        if input_size != 1:
            raise HJPruneError(
                f"the hj_prune encoder reads samples, but its input has size {input_size}; set "
                "frontend: null and input_size: 1"
            )
        options = UpstreamOptions.from_dict(
            upstream_conf,
            download_dir=download_dir,
            multilayer_feature=multilayer_feature,
            layer=layer,
            dropout=dropout,
            masking=masking,
            pruning=pruning,
            distillation=distillation,
            compile=compile,
        )
        self.core = SpeechUpstream(options)
        # Trainings go on over audio without a frame, see keep_short_audio.
        self.refuses_short_audio = True

    def output_size(self) -> int:
        """Width of the features."""
        return self.core.output_size()

    def reload_pretrained_parameters(self) -> None:
        """Load the upstream's weights again, after ESPnet's ``init`` has overwritten them."""
        self.core.reload_pretrained_parameters()

    def forward(
        self,
        xs_pad: torch.Tensor,
        ilens: torch.Tensor | None = None,
        prev_states: torch.Tensor | None = None,
        ctc: torch.nn.Module | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor, None]:
        """Encode ``(batch, samples)`` to ``(batch, time, width)`` and valid frames.

        Raises:
            HJPruneError: the task gives its encoder no lengths.
            ShortAudioError: in decoding, the utterance is too short for a frame.
        """
        if ilens is None:
            raise HJPruneError(
                "this task gives its encoder no lengths; use hj_prune as its frontend instead"
            )
        if self.refuses_short_audio and not self.training:
            refuse_short_audio(self.core.config, ilens)
        features, frames = self.core(xs_pad, ilens)
        return features, frames, None
