"""Measure how long encoders of an architecture take, so that latency can be a pruning's target.

Encoders whose layers have many widths take turns on the device; what is fitted to their times is
checked on others and written as a table, which is the pruning's option `latency_table`. Nothing
else should run meanwhile.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from espnet_hjprune.atomic import write_text
from espnet_hjprune.bin.cli import run_command
from espnet_hjprune.errors import HJPruneError, UsageError
from espnet_hjprune.progress import progress_bar

DTYPES = ("float32", "bfloat16", "float16")
# As many encoders as coefficients of the largest part, the CNN, and some more.
FEWEST_PROBES = 24


def get_parser() -> argparse.ArgumentParser:
    """Options of the command."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        allow_abbrev=False,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--upstream", help="named architecture, or s3prl upstream with --ckpt")
    parser.add_argument("--ckpt", help="checkpoint of the upstream")
    parser.add_argument("--model_dir", help="ESPnet model directory instead of an upstream")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="where it runs")
    parser.add_argument("--threads", type=int, help="CPU threads; without it torch's choice")
    parser.add_argument("--dtype", choices=DTYPES, default="float32", help="of the weights")
    parser.add_argument("--seconds", type=float, default=10.0, help="length of the audio")
    parser.add_argument("--batch", type=int, default=1, help="utterances at once")
    parser.add_argument(
        "--step", type=int, default=0, help="of the widths; 0 for what is fast, as it is measured"
    )
    parser.add_argument("--probes", type=int, default=40, help="encoders to fit to")
    parser.add_argument("--checked", type=int, default=20, help="encoders to check on")
    parser.add_argument("--rounds", type=int, default=5, help="passes through all of them")
    parser.add_argument("--output", type=Path, required=True, help="file for the table")
    return parser


def _check(args: argparse.Namespace) -> None:
    """Refuse values that argparse lets through.

    Raises:
        UsageError: one is out of range.
    """
    for name, fewest in (("batch", 1), ("probes", FEWEST_PROBES), ("checked", 1), ("rounds", 1)):
        if getattr(args, name) < fewest:
            raise UsageError(f"--{name} is {getattr(args, name)}; it is a number from {fewest}")
    if args.step < 0 or (args.threads is not None and args.threads < 1):
        raise UsageError("--step is a number from 0, --threads from 1")
    if args.seconds < 0.1:
        raise UsageError(f"--seconds is {args.seconds:g}; give at least 0.1")


def main(argv: Sequence[str] | None = None) -> None:
    """Make a table and print how well it predicts.

    Raises:
        HJPruneError: the architecture cannot be found, or there is no such device.
    """
    args = get_parser().parse_args(argv)
    _check(args)
    import torch

    from espnet_hjprune.benchmark import latency
    from espnet_hjprune.benchmark.machine import describe
    from espnet_hjprune.model.alignment import fastest_alignment
    from espnet_hjprune.model.architecture import find_architecture
    from espnet_hjprune.pruning.config import PruningConfig

    if args.device == "cuda" and not torch.cuda.is_available():
        raise HJPruneError("--device cuda needs a GPU that torch can use; there is none")
    if args.threads:
        torch.set_num_threads(args.threads)
    config = find_architecture(args.upstream, args.ckpt, args.model_dir)
    dtype: torch.dtype = getattr(torch, args.dtype)
    setting = latency.Setting(args.device, dtype, args.seconds, args.batch)
    step = args.step or fastest_alignment(
        config, PruningConfig(seconds=args.seconds), torch.device(args.device), dtype, args.batch
    )
    fitted, checked = latency.make_probes(config, args.probes, step, args.checked, setting)
    total = args.rounds * (len(fitted) + len(checked))
    with progress_bar(total=total, desc="timing", unit="encoder") as bar:
        latency.time_probes([*fitted, *checked], args.rounds, bar.update)
    machine = describe(args.device, args.dtype)
    table = latency.make_table(config, fitted, checked, step, setting, machine)
    write_text(args.output, json.dumps(table.to_dict(), indent=2) + "\n")
    found = table.check
    print(
        f"{args.output}: widths in steps of {step}; predictions of {found['encoders']} encoders "
        f"are off by {found['median_error']:.1%} (median), {found['largest_error']:.1%} (most)"
    )


if __name__ == "__main__":
    run_command(main)
