"""Exporting a recogniser, or its encoder alone, to other runtimes."""

from __future__ import annotations

import copy
import logging
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.utils.rnn import pad_sequence

from espnet_hjprune.errors import HJPruneError
from espnet_hjprune.inference.model import BatchInvariantModel
from espnet_hjprune.model.upstream import SpeechUpstream
from espnet_hjprune.nn.export_mode import plain_attention
from espnet_hjprune.nn.positional_embedding import PositionalConv

# File suffixes of the formats.
SUFFIXES = {"onnx": ".onnx", "torch_export": ".pt2", "torchscript": ".pt"}
# ONNX Runtime has no bfloat16 on CPUs, torch no dynamic int8 in exported programs.
QUANTIZATIONS = {"onnx": ("int8",), "torch_export": ("bf16",), "torchscript": ("bf16",)}
# The first with GELU as one operator.
OPSET = 20


@dataclass(frozen=True)
class Signature:
    """What a graph's inputs and outputs are called.

    Attributes:
        inputs: samples ``(batch, samples)`` and, if there is a second one, lengths ``(batch,)``.
        outputs: of the model.
        metadata: written into ONNX files.
    """

    inputs: tuple[str, ...] = ("wave", "lengths")
    outputs: tuple[str, ...] = ("output", "frames")
    metadata: Mapping[str, str] = field(default_factory=dict)


class FeatureModel(BatchInvariantModel):
    """The encoder alone: features ``(batch, time, width)`` as if each utterance was alone."""

    def forward(
        self, wave: torch.Tensor, lengths: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Features of ``(batch, samples)`` and valid frames ``(batch,)``."""
        return self.upstream(wave, lengths, batch_invariant=True)


def check_compact(model: BatchInvariantModel) -> None:
    """Make sure that a model has no gates, which no other runtime knows.

    Raises:
        HJPruneError: it has.
    """
    if model.upstream.pruner is not None:
        raise HJPruneError("the model has gates; compact it with espnet_hjprune.bin.compact first")


def shortest(upstream: SpeechUpstream) -> int:
    """Samples that audio must have in an exported model, which knows no single frame."""
    return upstream.config.receptive_field + upstream.config.downsampling


def example(upstream: SpeechUpstream, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """A padded batch of noise, ``(batch, samples)``, and its lengths."""
    generator = torch.Generator().manual_seed(seed)
    sizes = [16000 + 3000 * seed, 9001, shortest(upstream)]
    waves = [0.1 * torch.randn(size, generator=generator) for size in sizes]
    return pad_sequence(waves, batch_first=True), torch.tensor(sizes)


def export(
    model: BatchInvariantModel,
    path: Path,
    form: str,
    quantize: str | None = None,
    signature: Signature | None = None,
) -> None:
    """Write a model for another runtime; batch and time are dynamic.

    Args:
        model: a ``Recogniser`` or :class:`FeatureModel` without gates; it is not changed.
        path: file to write.
        form: a key of ``SUFFIXES``.
        quantize: ``int8`` for the linear layers, with scales that follow the data (not for the
            convolutions, which cost the demo's models 15 % of the words); ``bf16`` for all
            products in bfloat16.
        signature: names of the graph's inputs and outputs, which ``onnx`` has; ``None`` for ours.

    Raises:
        HJPruneError: formats that do not go together, gates, or a package that is missing.
    """
    if quantize is not None and quantize not in QUANTIZATIONS[form]:
        raise HJPruneError(
            f"--format {form} does not go with --quantize {quantize}; it takes "
            f"{', '.join(QUANTIZATIONS[form])}"
        )
    check_compact(model)
    model = copy.deepcopy(model).eval().requires_grad_(False)
    writers = {"torch_export": _torch_export, "torchscript": _torchscript}
    with quiet():
        try:
            if form == "onnx":
                _onnx(model, path, quantize, signature or Signature())
            else:
                writers[form](model, path, quantize)
        except ImportError as error:
            raise HJPruneError(
                f"exporting to {form} needs more packages ({error}); install onnx, onnxscript "
                "and onnxruntime"
            ) from error


def _onnx(
    model: BatchInvariantModel, path: Path, quantize: str | None, signature: Signature
) -> None:
    from onnxscript import opset20

    def gelu(x: Any, approximate: str = "none") -> Any:
        return opset20.Gelu(x)

    with plain_attention():
        program = _program(model, len(signature.inputs))
    converted = torch.onnx.export(
        program,
        dynamo=True,
        verbose=False,
        opset_version=OPSET,
        input_names=signature.inputs,
        output_names=signature.outputs,
        custom_translation_table={torch.ops.aten.gelu.default: gelu},
        external_data=False,
    )
    assert converted is not None
    converted.model.metadata_props.update(signature.metadata)
    if quantize is None:
        converted.save(path)
        return
    from onnxruntime.quantization import QuantType, quantize_dynamic

    with tempfile.TemporaryDirectory(dir=path.parent) as directory:
        whole = Path(directory) / path.name
        converted.save(whole)
        quantize_dynamic(
            whole,
            path,
            op_types_to_quantize=["MatMul", "Gemm"],
            per_channel=True,
            weight_type=QuantType.QInt8,
        )


def _torch_export(model: BatchInvariantModel, path: Path, quantize: str | None) -> None:
    torch.export.save(_program(_with_precision(model, quantize)), path)


def _torchscript(model: BatchInvariantModel, path: Path, quantize: str | None) -> None:
    model = _with_precision(model, quantize)
    with torch.no_grad():
        torch.jit.trace(model, example(model.upstream), check_trace=False).save(str(path))


def _program(model: BatchInvariantModel, inputs: int = 2) -> torch.export.ExportedProgram:
    """The graph of a model of so many inputs with dynamic batch and time."""
    batch = torch.export.Dim.AUTO
    samples = torch.export.Dim.AUTO(min=shortest(model.upstream))
    shapes: Any = ({0: batch, 1: samples}, {0: batch})
    with torch.no_grad():
        given = example(model.upstream)[:inputs]
        return torch.export.export(model, given, dynamic_shapes=shapes[:inputs])


class Bfloat16Model(BatchInvariantModel):
    """A model that computes its products in bfloat16."""

    def __init__(self, model: BatchInvariantModel) -> None:
        super().__init__(model.upstream)
        self.model = model

    def forward(
        self, wave: torch.Tensor, lengths: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """What the model returns, in float32."""
        # A cache would share casts between graphs.
        with torch.autocast("cpu", torch.bfloat16, cache_enabled=False):
            output, frames = self.model(wave, lengths)
        return output.float(), frames


def _with_precision(model: BatchInvariantModel, quantize: str | None) -> BatchInvariantModel:
    """Store matrices in bfloat16 and compute with them, where that is asked for."""
    if quantize is None:
        return model
    extractor = model.upstream.encoder.feature_extractor
    # A norm over time is folded into the filters before it, in double precision.
    exact = extractor.conv_layers()[0].conv if extractor.norms_over_time else None
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.Conv1d | PositionalConv) and module is not exact:
            module.bfloat16()
    return Bfloat16Model(model)


@contextmanager
def quiet() -> Iterator[None]:
    """Keep what the exporters say about their own operators off the terminal."""
    root = logging.getLogger()
    names = ("torch.onnx", "onnxscript", "onnx_ir")
    loggers = [logging.getLogger(name) for name in names]
    levels = [(logger, logger.level) for logger in (root, *loggers)]
    try:
        for logger, _ in levels:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in levels:
            logger.setLevel(level)
