"""Time encoders side by side: dense models of other packages, and ours dense and compact.

Models have random weights, which does not change their speed, unless --model_dir names compact
ones. Every round runs every model once, so that whatever else the machine does hits them all;
figures are medians over the rounds.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
from collections.abc import Iterable, Sequence
from contextlib import redirect_stdout
from functools import partial
from pathlib import Path
from typing import Any

from espnet_hjprune.bin.cli import run_command
from espnet_hjprune.errors import HJPruneError

# One frame takes 400 samples; shorter audio is padded, which no count of MACs knows.
SHORTEST = 0.1
DTYPES = ("float32", "bfloat16", "float16")
DEFAULT_PEERS = ("s3prl",)
STOCK_FRONTEND = "espnet_hjprune.espnet.benchmark_peer"


def get_parser() -> argparse.ArgumentParser:
    """Options of the command."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--upstream", default="wav2vec2_base", help="named architecture")
    parser.add_argument(
        "--targets",
        type=float,
        nargs="*",
        default=[0.2, 0.4, 0.6],
        help="shares of the MACs that random gates remove for the compact models",
    )
    parser.add_argument(
        "--latency_table", default="", help="of hjprune measure, or of the package; tells seconds"
    )
    parser.add_argument(
        "--latency_targets",
        type=float,
        nargs="*",
        default=[],
        help="shares of these seconds that random gates remove for more compact models",
    )
    parser.add_argument(
        "--round_to", type=int, default=1, help="align channels, FFN units and hidden size"
    )
    parser.add_argument("--model_dir", nargs="*", default=[], help="compact models to add")
    parser.add_argument(
        "--peers",
        nargs="*",
        help="dense models of other packages: s3prl, huggingface, torchaudio; default s3prl, where "
        "it can be imported",
    )
    parser.add_argument(
        "--runtimes",
        nargs="*",
        default=[],
        help="run our models also exported: onnx, onnx_int8, torchscript, torchscript_bf16 (CPU)",
    )
    parser.add_argument(
        "--modes",
        nargs="+",
        default=["eager"],
        help="run our models and Hugging Face's in these: eager, graph (CUDA graphs), compile",
    )
    parser.add_argument("--seconds", type=float, nargs="+", default=[10.0], help="audio lengths")
    parser.add_argument("--batch", type=int, nargs="+", default=[1], help="batch sizes")
    parser.add_argument("--repeats", type=int, default=7, help="timed rounds")
    parser.add_argument("--threads", type=int, help="CPU threads; default torch's choice")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--dtype", default="float32", choices=DTYPES, help="autocast type")
    parser.add_argument(
        "--half_weights", action="store_true", help="keep weights in --dtype instead of autocast"
    )
    parser.add_argument(
        "--training",
        action="store_true",
        help="time training steps instead: ours without and with gates, and with s3prl or "
        "huggingface among --peers those of ESPnet's own frontend or of Hugging Face's model",
    )
    parser.add_argument(
        "--recipe",
        action="store_true",
        help="with --training: time it also through ESPnet, as stages 3 and 4 of the recipes do",
    )
    parser.add_argument("--json", metavar="FILE", help="write all figures; - for standard output")
    parser.add_argument("--image", metavar="FILE", help="draw speed-up against MAC reduction")
    return parser


def check_names(option: str, given: Iterable[str], known: Iterable[str]) -> None:
    """Refuse names that an option does not have.

    Raises:
        HJPruneError: there is one.
    """
    unknown = sorted(set(given) - set(known))
    if unknown:
        raise HJPruneError(f"--{option} has no {', '.join(unknown)}; it takes {', '.join(known)}")


def check(args: argparse.Namespace) -> None:
    """Check values that argparse does not.

    Raises:
        HJPruneError: an unknown name, a value out of range, or no GPU where one is asked for.
    """
    import torch

    from espnet_hjprune.benchmark.models import RUNTIMES
    from espnet_hjprune.benchmark.modes import MODES
    from espnet_hjprune.benchmark.peers import INFERENCE_PEERS, PEERS
    from espnet_hjprune.upstream import architecture

    for name, known in (("peers", PEERS), ("runtimes", RUNTIMES), ("modes", MODES)):
        check_names(name, getattr(args, name) or [], known)
    architecture(args.upstream)
    if args.runtimes and (args.device != "cpu" or args.dtype != "float32" or args.training):
        raise HJPruneError("--runtimes go with --device cpu and --dtype float32, not --training")
    if "graph" in args.modes and (args.device != "cuda" or args.training):
        raise HJPruneError("--modes graph goes with --device cuda, not --training; leave it out")
    if args.half_weights and (args.dtype == "float32" or args.training):
        raise HJPruneError(
            "--half_weights goes with --dtype bfloat16 or float16, not --training; leave it out"
        )
    for peer in INFERENCE_PEERS:
        if args.training and peer in (args.peers or []):
            raise HJPruneError(f"--training is not compared on {peer}; leave it out of --peers")
    if args.recipe:
        # ESPnet's mixed precision is bfloat16, and none on the CPU.
        dtypes = ("float32",) if args.device == "cpu" else ("float32", "bfloat16")
        if not args.training or args.dtype not in dtypes:
            raise HJPruneError(
                f"--recipe goes with --training and --dtype {' or '.join(dtypes)}; correct them"
            )
    for option in ("targets", "latency_targets"):
        for target in getattr(args, option):
            if not 0 < target < 1:
                raise HJPruneError(f"--{option} has {target:g}; give shares between 0 and 1")
    if args.latency_targets and not args.latency_table:
        raise HJPruneError("--latency_targets are shares of the seconds that --latency_table tells")
    for name in ("batch", "repeats", "round_to", "threads"):
        values = getattr(args, name)
        if values is not None and min(values if isinstance(values, list) else [values]) <= 0:
            raise HJPruneError(f"--{name} must be positive")
    if min(args.seconds) < SHORTEST:
        raise HJPruneError(f"--seconds has {min(args.seconds):g}; give at least {SHORTEST}")
    if args.training and (args.image or args.model_dir):
        raise HJPruneError(
            "--training compares two dense models; leave --image and --model_dir out"
        )
    if args.device == "cuda" and not torch.cuda.is_available():
        raise HJPruneError("--device cuda needs a GPU that torch can use; there is none")


def describe_machine(args: argparse.Namespace, rate: float) -> dict[str, Any]:
    """What the figures were measured on; ``rate`` is that of a large matrix product."""
    from espnet_hjprune.benchmark.machine import describe

    found = describe(args.device, args.dtype)
    return found | {"half_weights": args.half_weights, "product_rate": rate}


def load_peer(peer: str, upstream: str, training: bool) -> None:
    """Import what a peer needs; in trainings, s3prl's model is that of ESPnet's own frontend.

    Raises:
        Exception: as the package does.
    """
    from espnet_hjprune.benchmark.peers import import_peer

    if training and peer == "s3prl":
        importlib.import_module(STOCK_FRONTEND)
    else:
        import_peer(peer, upstream)


def stock_frontend(upstream: str) -> Any:
    """ESPnet's own frontend with the upstream that is compared."""
    from espnet_hjprune.upstream import architecture
    from espnet_hjprune.upstream.families import family_of

    make = importlib.import_module(STOCK_FRONTEND).stock_frontend
    return make(family_of(upstream).s3prl.key, architecture(upstream))


def main(argv: Sequence[str] | None = None) -> None:
    """Run the comparison."""
    args = get_parser().parse_args(argv)
    check(args)
    import torch

    from espnet_hjprune.benchmark.compare import Comparison, compare_inference
    from espnet_hjprune.benchmark.peers import usable_peers
    from espnet_hjprune.benchmark.table import as_table
    from espnet_hjprune.benchmark.timing import product_rate

    load = partial(load_peer, upstream=args.upstream, training=args.training)
    with redirect_stdout(sys.stderr):
        peers = usable_peers(
            DEFAULT_PEERS if args.peers is None else args.peers, load, args.peers is not None
        )
    if args.recipe:
        from espnet_hjprune.benchmark.recipe_step import check_recipe

        check_recipe(args.upstream)
    if args.threads:
        torch.set_num_threads(args.threads)
    rate = product_rate(args.device, getattr(torch, args.dtype))
    options = Comparison(
        upstream=args.upstream,
        targets=args.targets,
        latency_table=args.latency_table,
        latency_targets=args.latency_targets,
        round_to=args.round_to,
        model_dirs=args.model_dir,
        peers=peers,
        modes=args.modes,
        runtimes=args.runtimes,
        seconds=args.seconds,
        batches=args.batch,
        repeats=args.repeats,
        device=args.device,
        dtype=args.dtype,
        half_weights=args.half_weights,
        rate=rate,
    )
    # Other packages print what they load.
    with redirect_stdout(sys.stderr):
        if args.training:
            from espnet_hjprune.benchmark.training_step import compare_training

            stock = stock_frontend(args.upstream) if "s3prl" in peers else None
            rows = compare_training(options, stock)
        else:
            rows = compare_inference(options)
        if args.recipe:
            from espnet_hjprune.benchmark.recipe_step import add_recipe_rows

            rows = add_recipe_rows(options, rows)
        result = {"machine": describe_machine(args, rate), "rows": rows}
    if args.json == "-":
        print(json.dumps(result, indent=2))
    else:
        print(as_table(result))
    if args.json and args.json != "-":
        from espnet_hjprune.atomic import write_text

        write_text(Path(args.json), json.dumps(result, indent=2) + "\n")
    if args.image:
        from espnet_hjprune.benchmark.figure import plot_speed

        plot_speed(result, args.image)


if __name__ == "__main__":
    run_command(main)
