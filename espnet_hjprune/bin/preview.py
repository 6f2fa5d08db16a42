"""Say what pruning a trained model will cost, before any training: units are scored and closed.

The table has, for every target, the loss on held-out utterances right after the cut, and the
latency that was measured. Fine-tuning, and gates that learn what to close, lower that loss.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from espnet_hjprune.atomic import write_text
from espnet_hjprune.bin.cli import run_command
from espnet_hjprune.data.datadir import read_table
from espnet_hjprune.errors import HJPruneError, UsageError
from espnet_hjprune.listing import evenly
from espnet_hjprune.progress import progress_bar
from espnet_hjprune.pruning.config import DEFAULT_UNITS, SCORES, UNITS
from espnet_hjprune.report.results_md import cost_cells, plain_table
from espnet_hjprune.target import parse_targets

if TYPE_CHECKING:
    from espnet_hjprune.model.preview import PreviewedModel


def get_parser() -> argparse.ArgumentParser:
    """Options of the command."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        allow_abbrev=False,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--task", default="asr", help="ESPnet task of the model: asr or slu")
    parser.add_argument("--train_config", type=Path, required=True, help="its config.yaml")
    parser.add_argument("--model_file", type=Path, required=True, help="its weights")
    parser.add_argument(
        "--data_dir", type=Path, required=True, help="formatted data with wav.scp and text"
    )
    parser.add_argument("--targets", default="0.2 0.4 0.6", help="shares to remove")
    parser.add_argument(
        "--criterion",
        choices=("macs", "size", "latency"),
        default="macs",
        help="what is removed: MACs, parameters or seconds",
    )
    parser.add_argument(
        "--latency_table", default="", help="of hjprune measure, or of the package, for latency"
    )
    parser.add_argument(
        "--units", nargs="+", choices=UNITS, default=list(DEFAULT_UNITS), help="what is closed"
    )
    parser.add_argument(
        "--scores", nargs="+", choices=SCORES, default=list(SCORES), help="how units are scored"
    )
    parser.add_argument("--num_scored", type=int, default=16, help="utterances that score units")
    parser.add_argument("--num_compared", type=int, default=32, help="others that give the loss")
    parser.add_argument(
        "--seconds", type=float, default=10.0, help="audio that is timed; a table's goes first"
    )
    parser.add_argument("--rounds", type=int, default=5, help="rounds of timing; 0 for none")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="where it runs")
    parser.add_argument("--json", type=Path, help="file for the same figures")
    return parser


def _split(data_dir: Path, scored: int, compared: int) -> tuple[list[str], list[str]]:
    """Names of utterances for scoring and for comparing, both evenly spread over the data."""
    names = list(read_table(data_dir / "text"))
    count = scored + compared
    if len(names) < count:
        raise HJPruneError(
            f"{data_dir} has {len(names)} utterances, fewer than {count}; lower --num_scored or "
            "--num_compared"
        )
    chosen = evenly(names, count)
    every = count / scored
    places = {round(index * every) for index in range(scored)}
    return (
        [name for place, name in enumerate(chosen) if place in places],
        [name for place, name in enumerate(chosen) if place not in places],
    )


def main(argv: Sequence[str] | None = None) -> None:
    """Print the table.

    Raises:
        HJPruneError: a file is missing or is no such model, a target cannot be met, or there are
            too few utterances.
    """
    args = get_parser().parse_args(argv)
    for option in ("num_scored", "num_compared"):
        if getattr(args, option) < 1:
            raise UsageError(f"--{option} is a whole number from 1")
    targets = [target.shares[0] for target in parse_targets(args.targets, "--targets")]
    if (args.criterion == "latency") != bool(args.latency_table):
        raise UsageError("--criterion latency goes with --latency_table; give both or neither")
    for path in (args.train_config, args.model_file, args.data_dir / "wav.scp"):
        if not path.is_file():
            raise HJPruneError(f"{path} does not exist")
    scored, compared = _split(args.data_dir, args.num_scored, args.num_compared)

    # After the checks: ESPnet takes seconds.
    from espnet_hjprune.espnet.task_loss import TaskLoss
    from espnet_hjprune.model.preview import PreviewOptions, preview
    from espnet_hjprune.pruning.latency import read_table

    seconds, batch = args.seconds, 1
    if args.latency_table:
        # What is measured must be what was aimed at.
        table = read_table(args.latency_table)
        seconds, batch = table.seconds, table.batch
        if table.device != args.device:
            raise UsageError(f"--latency_table is of --device {table.device}; give that")
    options = PreviewOptions(
        targets=targets,
        criterion=args.criterion,
        latency_table=args.latency_table,
        units=args.units,
        scores=args.scores,
        seconds=seconds,
        batch=batch,
        rounds=args.rounds,
    )

    loss = TaskLoss(args.task, args.train_config, args.model_file, args.device)
    held_out = list(loss.batches(args.data_dir, compared))
    scoring = progress_bar(
        loss.batches(args.data_dir, scored), total=len(scored), desc="scores", unit="utt"
    )
    models = list(preview(loss.upstream, loss, scoring, held_out, options))
    print(plain_table(_table(models, seconds, args.device)), end="")
    if args.json:
        text = json.dumps([asdict(model) for model in models], indent=2)
        write_text(args.json, text + "\n")


def _table(models: Sequence[PreviewedModel], seconds: float, device: str) -> list[list[str]]:
    """Rows of the table."""
    header = ["units scored by", "target", f"GMACs ({seconds:g} s)", "MACs removed", "parameters"]
    header += ["latency (ms)", f"speed-up ({device})", "loss"]
    rows = [header]
    for model in models:
        rows.append(
            [
                model.scores or "(dense)",
                f"{model.target:g}" if model.target else "-",
                *cost_cells(model.macs, model.macs_removed, model.params),
                "-" if model.latency is None else f"{1000 * model.latency:.0f}",
                "-" if model.speed_up is None else f"{model.speed_up:.2f}",
                f"{model.loss:.4g}",
            ]
        )
    return rows


if __name__ == "__main__":
    run_command(main)
