"""Write an upstream as a model directory, which a pruning without labels starts from."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path

from espnet_hjprune.bin.cli import run_command


def main(argv: Sequence[str] | None = None) -> None:
    """Read the upstream and write it.

    Raises:
        HJPruneError: it cannot be read.
    """
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--upstream", required=True, help="s3prl's name")
    parser.add_argument("--upstream_ckpt", default="", help="its checkpoint")
    parser.add_argument("--normalize_input", default="", help="true or false: scale audio or not")
    parser.add_argument("--trust_checkpoint", default="false", help="true: execute the checkpoint")
    parser.add_argument("--output_dir", type=Path, required=True, help="model directory to write")
    args = parser.parse_args(argv)

    from espnet_hjprune.model.loading import load_upstream, save

    upstream = load_upstream(
        args.upstream,
        args.upstream_ckpt or None,
        trust_checkpoint=args.trust_checkpoint == "true",
        normalize_input=args.normalize_input == "true" if args.normalize_input else None,
    )
    args.output_dir.parent.mkdir(parents=True, exist_ok=True)
    save(upstream, args.output_dir)
    count = sum(parameter.numel() for parameter in upstream.parameters())
    logging.info("%s: %.2f M parameters", args.output_dir, count / 1e6)


if __name__ == "__main__":
    run_command(main)
