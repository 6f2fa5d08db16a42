"""Measure speed and memory on a GPU, and write all figures to one page.

Training with and without gates, through ESPnet too where it is installed; memory of longer audio
and of a large model; inference with weights in half precision. It takes some minutes. The page is
OUTPUT/<card>.md, all figures are in OUTPUT/<card>.json.
"""

from __future__ import annotations

import argparse
import json
import logging
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from espnet_hjprune.bin.bench import check_names, load_peer
from espnet_hjprune.bin.cli import run_command
from espnet_hjprune.errors import HJPruneError

DEFAULT_PEERS = ("huggingface",)


def get_parser() -> argparse.ArgumentParser:
    """Options of the command."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        allow_abbrev=False,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--device", default="cuda", choices=("cpu", "cuda"), help="cpu for a try")
    parser.add_argument("--output", type=Path, default=Path("gpu_figures"), help="a directory")
    parser.add_argument(
        "--groups", nargs="+", default=["training", "memory", "inference"], help="what is measured"
    )
    parser.add_argument("--upstream", default="wav2vec2_base", help="of most figures")
    parser.add_argument("--large_upstream", default="wav2vec2_large", help="of one about memory")
    parser.add_argument(
        "--peers", nargs="*", help="other packages; huggingface, where it can be imported"
    )
    parser.add_argument(
        "--modes", nargs="+", default=["eager", "graph", "compile"], help="as bench has them"
    )
    parser.add_argument("--max_seconds", type=float, default=30.0, help="cuts audio down")
    parser.add_argument("--max_batch", type=int, default=16, help="cuts batches down")
    parser.add_argument("--max_repeats", type=int, default=15, help="cuts timed rounds down")
    return parser


def _usable_peers(args: argparse.Namespace) -> tuple[str, ...]:
    """The peers that can be imported for all groups that have them.

    Raises:
        HJPruneError: one that was asked for cannot be imported.
    """
    from espnet_hjprune.benchmark.peers import INFERENCE_PEERS, usable_peers

    peers = list(DEFAULT_PEERS if args.peers is None else args.peers)
    for group, training in (("inference", False), ("training", True)):
        if group in args.groups:
            fitting = [peer for peer in peers if not (training and peer in INFERENCE_PEERS)]
            load = partial(load_peer, upstream=args.upstream, training=training)
            usable = usable_peers(fitting, load, args.peers is not None)
            peers = [peer for peer in peers if peer in usable or peer not in fitting]
    return tuple(peers)


def _has_recipe(upstream: str) -> bool:
    """Whether trainings can run through ESPnet; where not, a warning says why."""
    from espnet_hjprune.benchmark.recipe_step import check_recipe

    try:
        check_recipe(upstream)
    except HJPruneError as error:
        logging.warning("Rows through ESPnet are left out: %s", error)
        return False
    return True


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and write.

    Raises:
        HJPruneError: there is no such group, mode, package or GPU, or a benchmark failed; the
            figures of the others are written.
    """
    args = get_parser().parse_args(argv)
    import torch

    from espnet_hjprune.atomic import write_text
    from espnet_hjprune.benchmark.gpu_figures import (
        GROUPS,
        Sizes,
        as_page,
        card_name,
        groups,
        run_group,
    )
    from espnet_hjprune.benchmark.modes import MODES
    from espnet_hjprune.benchmark.peers import PEERS
    from espnet_hjprune.upstream import architecture

    for name, known in (("groups", GROUPS), ("peers", PEERS), ("modes", MODES)):
        check_names(name, getattr(args, name) or [], known)
    if args.device == "cuda" and not torch.cuda.is_available():
        raise HJPruneError("--device cuda needs a GPU that torch can use; there is none")
    for name in (args.upstream, args.large_upstream):
        architecture(name)
    recipe = "training" in args.groups and _has_recipe(args.upstream)
    sizes = Sizes(
        args.device,
        args.upstream,
        args.large_upstream,
        _usable_peers(args),
        tuple(args.modes),
        args.max_seconds,
        args.max_batch,
        args.max_repeats,
        recipe,
    )
    failed, results = [], []
    for group in groups(sizes, args.groups):
        result = run_group(group)
        if result is None:
            failed.append(group.title)
        else:
            results.append(result)
    if results:
        place = args.output / card_name(results[0])
        page = as_page(results)
        write_text(place.with_name(f"{place.name}.md"), page)
        write_text(place.with_name(f"{place.name}.json"), json.dumps(results, indent=2) + "\n")
        print(page)
        logging.info("Wrote %s.md and %s.json", place, place)
    if failed:
        raise HJPruneError(f"{', '.join(failed)} failed; the reason is above")


if __name__ == "__main__":
    run_command(main)
