"""The ``hj_prune`` frontend, which stands where ESPnet's ``s3prl`` frontend stands."""

from __future__ import annotations

from typing import Any

import torch
from espnet2.asr.frontend.abs_frontend import AbsFrontend

from espnet_hjprune.errors import HJPruneError
from espnet_hjprune.espnet.short_audio import refuse_short_audio
from espnet_hjprune.model.stock_weights import translate_stock_weights
from espnet_hjprune.model.upstream import SpeechUpstream
from espnet_hjprune.model.upstream_options import UpstreamOptions


class HJPruneFrontend(AbsFrontend):
    """Self-supervised features with prunable units; takes the options of ESPnet's ``s3prl``.

    Args:
        fs: sampling rate, which must be 16 kHz.
        frontend_conf: ``upstream``, ``path_or_url``, ``tile_factor``; see
            :class:`UpstreamOptions`, also for the other options. They are all named here because
            ESPnet reads them off the signature.

    Raises:
        HJPruneError: a wrong option, upstream or checkpoint, or a target that cannot be met.
    """

    def __init__(
        self,
        fs: int | str = 16000,
        frontend_conf: dict[str, Any] | None = None,
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
        if str(fs).lower() not in ("16000", "16k"):
            raise HJPruneError(f"fs is {fs}, but the upstreams take 16 kHz audio; set fs to 16k")
        options = UpstreamOptions.from_dict(
            frontend_conf,
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
        self.hop_length = self.core.config.downsampling
        # ESPnet turns autocast off around the frontends of most tasks; a training with mixed
        # precision says here in which type the upstream runs all the same.
        self.amp_dtype: torch.dtype | None = None
        # Trainings go on over audio without a frame, see keep_short_audio.
        self.refuses_short_audio = True
        self._register_load_state_dict_pre_hook(self._accept_stock_weights)

    def _accept_stock_weights(self, state: dict[str, Any], prefix: str, *_: Any) -> None:
        """Hook of ``load_state_dict``: take a model of the stock frontend."""
        translate_stock_weights(self.core, state, prefix)

    def output_size(self) -> int:
        """Width of the features."""
        return self.core.output_size()

    def reload_pretrained_parameters(self) -> None:
        """Load the upstream's weights again, after ESPnet's ``init`` has overwritten them."""
        self.core.reload_pretrained_parameters()

    def forward(
        self, input: torch.Tensor, input_lengths: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Encode ``(batch, samples)`` to ``(batch, time, width)`` and valid frames.

        The features are in float32 at least, also where the upstream runs in half precision.

        Raises:
            ShortAudioError: in decoding, the utterance is too short for a frame.
        """
        if self.refuses_short_audio and not self.training:
            refuse_short_audio(self.core.config, input_lengths)
        device = input.device.type
        if self.amp_dtype is None or torch.is_autocast_enabled(device):
            features, frames = self.core(input, input_lengths)
        else:
            with torch.autocast(device, self.amp_dtype):
                features, frames = self.core(input, input_lengths)
        return features.to(torch.promote_types(features.dtype, torch.float32)), frames
