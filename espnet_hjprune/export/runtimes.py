"""CTC models as files that stock runtimes read: sherpa-onnx and onnx-asr.

Both take the most likely token of every frame, as :mod:`~espnet_hjprune.inference.best_path` does.
"""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from pathlib import Path

import torch

from espnet_hjprune.constants import BLANK, SAMPLE_RATE, SPACE
from espnet_hjprune.errors import HJPruneError
from espnet_hjprune.export.graphs import Signature, export
from espnet_hjprune.inference.greedy import BLANK as BLANK_NUMBER
from espnet_hjprune.inference.model import BatchInvariantModel, Recogniser
from espnet_hjprune.inference.windows import FrameGrid

# What these runtimes call the blank and the space between words.
THEIR_BLANK = "<blk>"
THEIR_SPACE = "\u2581"
# Log probability of all tokens but the blank in frames behind the end.
NEVER = -100.0


class _WithoutLengths(BatchInvariantModel):
    """A recogniser for utterances that are alone, or of one length."""

    def __init__(self, model: Recogniser) -> None:
        super().__init__(model.upstream)
        self.model = model

    def forward(self, wave: torch.Tensor) -> torch.Tensor:
        """Log probabilities ``(batch, time, token)`` of ``(batch, samples)``."""
        lengths = torch.full((wave.shape[0],), wave.shape[1], device=wave.device)
        log_probs: torch.Tensor = self.model(wave, lengths)[0]
        return log_probs


class _WithBlanks(BatchInvariantModel):
    """A recogniser that says nothing behind the end of an utterance, where readers may look."""

    blanks: torch.Tensor

    def __init__(self, model: Recogniser) -> None:
        super().__init__(model.upstream)
        self.model = model
        blanks = torch.full((len(model.tokens),), NEVER)
        blanks[BLANK_NUMBER] = 0.0
        self.register_buffer("blanks", blanks)

    def forward(self, wave: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        """Log probabilities ``(batch, time, token)`` of a padded batch ``(batch, samples)``."""
        log_probs, frames = self.model(wave, lengths)
        outside = torch.arange(log_probs.shape[1], device=wave.device) >= frames.unsqueeze(1)
        return torch.where(outside.unsqueeze(-1), self.blanks, log_probs)


@dataclass(frozen=True)
class Runtime:
    """What a runtime reads.

    Attributes:
        name: of its package.
        inputs: of the graph.
        output: of the graph.
        vocabulary: its file of ``token number`` lines.
        model: gives a recogniser these inputs.
    """

    name: str
    inputs: tuple[str, ...]
    output: str
    vocabulary: str
    model: type[_WithoutLengths] | type[_WithBlanks]


RUNTIMES = {
    runtime.name: runtime
    for runtime in (
        # Read as an Omnilingual ASR model, which has the samples as its input.
        Runtime("sherpa-onnx", ("x",), "logits", "tokens.txt", _WithoutLengths),
        # Read as a `wav2vec2-ctc` model, which releases after 0.12.0 know.
        Runtime(
            "onnx-asr", ("input_values", "input_lengths"), "logprobs", "vocab.txt", _WithBlanks
        ),
    )
}


def export_for_runtime(
    model: Recogniser, directory: Path, name: str, quantize: str | None = None
) -> Path:
    """Write what a runtime loads: the graph, the vocabulary, and its configuration.

    Args:
        model: a CTC model without gates.
        directory: an empty one.
        name: a key of ``RUNTIMES``.
        quantize: ``int8`` or ``None``; see :func:`.export`.

    Returns:
        The file of the graph.

    Raises:
        HJPruneError: a classifier, or a token with a blank in it.
    """
    if model.classifies:
        raise HJPruneError(f"--runtime {name} takes CTC models; this one is a classifier")
    if name == "sherpa-onnx" and not model.upstream.config.normalize_input:
        logging.warning(
            "sherpa-onnx scales all audio to unit variance, but this model was trained without "
            "that and may find other words there; train with normalize_input: true for it"
        )
    runtime = RUNTIMES[name]
    # Samples from one frame of the output to the next.
    step = FrameGrid.of(model.upstream.config).step // model.upstream.options.tile_factor
    signature = Signature(
        runtime.inputs,
        (runtime.output,),
        {
            "comment": "exported by espnet_hjprune",
            "vocab_size": str(len(model.tokens)),
            "sample_rate": str(SAMPLE_RATE),
            "subsampling_factor": str(step),
        },
    )
    file = directory / (f"model.{quantize}.onnx" if quantize else "model.onnx")
    export(runtime.model(model), file, "onnx", quantize, signature)
    (directory / runtime.vocabulary).write_text(vocabulary(model), encoding="utf-8")
    if name == "onnx-asr":
        config = {"model_type": "wav2vec2-ctc", "subsampling_factor": step}
        (directory / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    return file


def vocabulary(model: Recogniser) -> str:
    """The lines ``token number``; words of a model of words begin with a space, as pieces do.

    Raises:
        HJPruneError: a token has a blank in it.
    """
    names = {BLANK: THEIR_BLANK, SPACE: THEIR_SPACE}
    lines = []
    for number, token in enumerate(model.tokens):
        if " " in token:
            raise HJPruneError(f"the token '{token}' has a blank in it, which no runtime can read")
        name = names.get(token, token)
        if model.token_type == "word" and token != BLANK:
            name = THEIR_SPACE + name
        lines.append(f"{name} {number}\n")
    return "".join(lines)
