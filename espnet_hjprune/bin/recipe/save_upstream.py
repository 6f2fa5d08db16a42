"""Save an upstream, or that of a trained model, as a model directory."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path

from espnet_hjprune.bin.cli import run_command
from espnet_hjprune.errors import UsageError


def main(argv: Sequence[str] | None = None) -> None:
    """Read the upstream and write it.

    Raises:
        HJPruneError: it cannot be read.
    """
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--upstream", default="", help="s3prl's name, or hj_prune_local")
    parser.add_argument("--upstream_ckpt", default="", help="its checkpoint, or model directory")
    parser.add_argument("--normalize_input", default="", help="true or false: scale audio or not")
    parser.add_argument("--trust_checkpoint", default="false", help="true: execute the checkpoint")
    parser.add_argument(
        "--model_file", type=Path, help="instead: weights of a model, with config.yaml beside them"
    )
    parser.add_argument("--output_dir", type=Path, required=True, help="model directory to write")
    args = parser.parse_args(argv)
    if bool(args.upstream) == bool(args.model_file):
        raise UsageError("give either --upstream or --model_file")

    from espnet_hjprune.model.loading import load_trained_upstream, save
    from espnet_hjprune.model.upstream import SpeechUpstream
    from espnet_hjprune.model.upstream_options import UpstreamOptions

    if args.model_file:
        upstream = load_trained_upstream(args.model_file.parent / "config.yaml", args.model_file)
    else:
        # Of a model that was trained for a task the encoder alone, read at its last layer.
        options = UpstreamOptions(
            upstream=args.upstream,
            path_or_url=args.upstream_ckpt or None,
            normalize_input=args.normalize_input == "true" if args.normalize_input else None,
            trust_checkpoint=args.trust_checkpoint == "true",
        )
        upstream = SpeechUpstream(options)
    args.output_dir.parent.mkdir(parents=True, exist_ok=True)
    save(upstream, args.output_dir)
    count = sum(parameter.numel() for parameter in upstream.parameters())
    logging.info("%s: %.2f M parameters", args.output_dir, count / 1e6)


if __name__ == "__main__":
    run_command(main)
