"""Export a CTC model or a classifier to Hugging Face, s3prl, ONNX, torch.export or TorchScript.

``huggingface`` writes a directory that transformers loads with its own code, s3prl's downstream
models through ``torch.hub``. The others write a graph, in which batch and time are dynamic: inputs
are ``wave`` (batch, samples) at 16 kHz, zero after the end of an utterance, and ``lengths``
(batch,) in samples; outputs are log probabilities (batch, time, token) and valid frames (batch,).
Every utterance gets the output that it has alone.
"""

from __future__ import annotations

import argparse
import json
import logging
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from espnet_hjprune.bin.cli import run_command
from espnet_hjprune.errors import HJPruneError

FORMATS = ("huggingface", "onnx", "torch_export", "torchscript")


def get_parser() -> argparse.ArgumentParser:
    """Options of the command."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--model_dir", type=Path, required=True, help="has config.yaml and weights")
    parser.add_argument("--model_file", type=Path, help="weights; default the best of model_dir")
    parser.add_argument("--format", choices=FORMATS, default="onnx", help="what to write")
    parser.add_argument(
        "--quantize",
        choices=("int8", "bf16"),
        help="int8 with onnx: linear layers in 8 bits; bf16 with the others",
    )
    parser.add_argument(
        "--encoder_only", action="store_true", help="features instead of log probabilities"
    )
    parser.add_argument(
        "--stock",
        action="store_true",
        help="with huggingface: for Wav2Vec2Model itself, without code; needs pruning.uniform",
    )
    parser.add_argument(
        "--runtime",
        choices=("sherpa-onnx", "onnx-asr"),
        help="with onnx: names, vocabulary and configuration as this package reads them",
    )
    parser.add_argument(
        "--data_dir", type=Path, help="wav.scp and text whose word errors are compared"
    )
    parser.add_argument("--output_dir", type=Path, help="default <model_dir>/export_<what>")
    return parser


def check_output(output: Path, model_dir: Path) -> None:
    """Make sure that the directory, which is replaced as a whole, holds nothing but an export.

    Raises:
        HJPruneError: it holds something else.
    """
    if not output.exists() or (output / "export.json").is_file():
        if output not in (model_dir.resolve(), *model_dir.resolve().parents):
            return
    elif output.is_dir() and not any(output.iterdir()):
        return
    raise HJPruneError(f"--output_dir {output} holds other files; give a directory of its own")


def main(argv: Sequence[str] | None = None) -> None:
    """Export the model, compare it, then put it in place."""
    args = get_parser().parse_args(argv)
    if args.encoder_only and args.data_dir:
        raise HJPruneError("--encoder_only gives no words; leave --data_dir out")
    if args.quantize and args.format == "huggingface":
        raise HJPruneError(
            "--format huggingface does not go with --quantize; transformers converts the weights "
            "when it loads them (dtype)"
        )
    if args.runtime and (args.format != "onnx" or args.encoder_only):
        raise HJPruneError("--runtime needs --format onnx, and no --encoder_only")
    if args.stock and args.format != "huggingface":
        raise HJPruneError("--stock needs --format huggingface")
    from espnet_hjprune.atomic import replaced_directory
    from espnet_hjprune.export.check import TOLERANCE, largest_difference, word_errors
    from espnet_hjprune.export.graphs import SUFFIXES, FeatureModel, export, shortest
    from espnet_hjprune.export.huggingface import export_huggingface
    from espnet_hjprune.export.runtimes import export_for_runtime
    from espnet_hjprune.inference.model import Recogniser, load_recogniser
    from espnet_hjprune.inference.runtime import load_exported
    from espnet_hjprune.inference.windows import FrameGrid
    from espnet_hjprune.model.loading import load_trained_upstream
    from espnet_hjprune.model.model_dir import find_weights

    config = args.model_dir / "config.yaml"
    weights = args.model_file or find_weights(args.model_dir)
    model: FeatureModel | Recogniser
    if args.encoder_only:
        model = FeatureModel(load_trained_upstream(config, weights)).eval()
    else:
        model = load_recogniser(config, weights)
    kind = args.runtime or args.format
    stock = "stock" if args.stock else None
    name = "_".join(part for part in ("export", kind, stock, args.quantize) if part)
    output = (args.output_dir or args.model_dir / name).resolve()
    check_output(output, args.model_dir)
    with replaced_directory(output) as directory:
        grid = FrameGrid.of(model.upstream.config)
        if args.format == "huggingface":
            exported = export_huggingface(model, directory, args.model_dir, args.stock)
        elif isinstance(model, Recogniser) and args.runtime:
            file = export_for_runtime(model, directory, args.runtime, args.quantize)
            exported = load_exported(file, grid=grid)
        else:
            file = directory / f"model{SUFFIXES[args.format]}"
            export(model, file, args.format, args.quantize)
            exported = load_exported(file, grid=grid)
        # Neither is told where an utterance ends.
        reads_short = not args.stock and args.runtime != "sherpa-onnx"
        difference = largest_difference(model, exported, reads_short)
        if args.quantize is None and difference > TOLERANCE:
            raise HJPruneError(
                f"the exported model differs by {difference:.1e} from {weights}, more than "
                f"{TOLERANCE:g}; report this as a bug"
            )
        report = {
            "model_file": str(weights),
            "format": args.format,
            "runtime": args.runtime,
            "stock": args.stock,
            "quantize": args.quantize,
            # Weights beyond 2 GB stand in a file of their own.
            "bytes": sum(part.stat().st_size for part in directory.glob("model.*")),
            "shortest_samples": shortest(model.upstream),
            # Samples from a frame to the next, and samples that one reads.
            "frame_grid": asdict(grid),
            "max_abs_diff": difference,
        }
        if isinstance(model, Recogniser) and args.runtime is None:
            tokens = "".join(f"{token}\n" for token in model.tokens)
            (directory / "tokens.txt").write_text(tokens, encoding="utf-8")
        if isinstance(model, Recogniser) and args.data_dir:
            errors = word_errors(model, exported, args.data_dir)
            report["word_errors"] = errors.as_dict()
            logging.info(
                "WER %.2f %% before, %.2f %% exported (%+.2f), %d utterances of %s",
                errors.before,
                errors.after,
                errors.after - errors.before,
                errors.utterances,
                args.data_dir,
            )
        (directory / "export.json").write_text(json.dumps(report, indent=2) + "\n")
    logging.info("%s: %.1f MB, largest difference %.1e", output, report["bytes"] / 1e6, difference)


if __name__ == "__main__":
    run_command(main)
