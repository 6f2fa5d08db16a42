"""Audio that is too short for a single frame: ESPnet's decoding gives it an empty text."""

from __future__ import annotations

import torch
from espnet.nets.pytorch_backend.transformer.subsampling import TooShortUttError
from espnet2.asr_transducer.utils import TooShortUttError as TransducerError

from espnet_hjprune.nn.config import EncoderConfig


class ShortAudioError(TooShortUttError, TransducerError):
    """What ESPnet's decoding commands catch, as from their own encoders, to write no words.

    Args:
        samples: of the utterance.
        needed: by the first frame.
    """

    def __init__(self, samples: int, needed: int) -> None:
        # The two classes do not know of each other, so that theirs cannot be called.
        Exception.__init__(
            self,
            f"has {samples} samples, of which a frame needs {needed}; its text is empty",
        )
        self.actual_size, self.limit = samples, needed


def refuse_short_audio(config: EncoderConfig, lengths: torch.Tensor) -> None:
    """Check a batch of one utterance, which ESPnet's decoding has.

    Args:
        config: architecture of the encoder.
        lengths: ``(batch,)`` samples.

    Raises:
        ShortAudioError: the batch is one utterance without a frame.
    """
    needed = config.receptive_field
    if len(lengths) == 1 and int(lengths) < needed:
        raise ShortAudioError(int(lengths), needed)


def keep_short_audio(model: torch.nn.Module) -> None:
    """Let a model that is trained or teaches pad such audio to one frame, in validation too."""
    for module in model.modules():
        if hasattr(module, "refuses_short_audio"):
            module.refuses_short_audio = False  # type: ignore[assignment]
