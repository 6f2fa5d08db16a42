"""Compact a model that was trained with gates: an ESPnet model directory and ``summary.json``."""

from __future__ import annotations

import argparse
import importlib.util
import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from espnet_hjprune.atomic import replaced_file, write_text
from espnet_hjprune.bin.cli import run_command
from espnet_hjprune.config_file import read_config
from espnet_hjprune.constants import SAMPLE_RATE
from espnet_hjprune.errors import HJPruneError

if TYPE_CHECKING:
    from espnet_hjprune.nn.config import EncoderConfig
    from espnet_hjprune.pruning.latency import LatencyTable
    from espnet_hjprune.pruning.pruner import Pruner

COMPARED_SECONDS = 10


def get_parser() -> argparse.ArgumentParser:
    """Options of the command."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--task", default="asr", help="ESPnet task of the model")
    parser.add_argument("--train_config", required=True, help="config.yaml of the gated model")
    parser.add_argument("--model_file", required=True, help="weights of the gated model")
    parser.add_argument("--output_dir", required=True, help="model directory to write")
    parser.add_argument(
        "--wav", nargs="*", default=[], help="audio files to compare on; else synthetic audio"
    )
    parser.add_argument(
        "--finetune_config", help="training configuration to complete with the architecture"
    )
    parser.add_argument(
        "--finetune_output", help="where to write it; default OUTPUT_DIR/finetune.yaml"
    )
    parser.add_argument(
        "--allow_off_target",
        choices=("true", "false"),
        default="false",
        help="true: compact also if the gates' expected sparsity is far from the target",
    )
    parser.add_argument(
        "--timed_rounds",
        type=int,
        default=5,
        help="passes of the dense and the compact encoder that are timed; 0 for none",
    )
    parser.add_argument(
        "--latency_table",
        default="",
        help="time as this table of hjprune measure was made; without it as that of the pruning",
    )
    parser.add_argument(
        "--ngpu",
        type=int,
        default=0,
        help="1: time on a GPU, unless the table says where",
    )
    return parser


def measured_latency(
    pruner: Pruner, compact: EncoderConfig, rounds: int, ngpu: int, given: LatencyTable | None
) -> Any:
    """Seconds of the dense and the compact encoder, measured side by side, and what was predicted.

    They are measured as those of the table are, if there is one: the pruning's, or another.

    Returns:
        What :func:`.side_by_side` does, and ``predicted`` seconds where a table told them; ``None``
        where nothing can be timed.
    """
    import torch

    from espnet_hjprune.benchmark.side_by_side import side_by_side
    from espnet_hjprune.pruning.cost import config_counts

    table = pruner.measures[0].table or given
    setting: dict[str, Any] = {
        "device": "cuda" if ngpu else "cpu",
        "seconds": pruner.options.seconds,
    }
    if table is not None:
        names = ("device", "dtype", "seconds", "batch", "threads")
        setting = {name: getattr(table, name) for name in names}
    if rounds == 0:
        return None
    if setting["device"] == "cuda" and not torch.cuda.is_available():
        logging.warning("Latency is not measured: it is that of a GPU, and there is none here")
        return None
    try:
        found = side_by_side(pruner.config, compact, rounds, **setting)
    except RuntimeError as error:
        # Such as no memory; the model is worth more than its time.
        logging.warning("Latency is not measured: %s", str(error).splitlines()[0])
        return None
    logging.info(
        "Latency: %.1f ms instead of %.1f ms, %.2f times as fast (%s, %s threads)",
        1000 * found["actual"],
        1000 * found["dense"],
        found["speed_up"],
        found["machine"]["device"],
        found["machine"]["threads"],
    )
    if table is not None:
        found["predicted"] = table.whole_cost(config_counts(compact))
        logging.info("The table of latencies predicts %.1f ms", 1000 * found["predicted"])
    return found


def comparison_audio(files: Sequence[str]) -> list[Any]:
    """Utterances for the comparison: up to a few seconds of ``files``, or noise.

    Raises:
        HJPruneError: a file cannot be read.
    """
    import soundfile
    import torch

    from espnet_hjprune.model.compaction import noise

    if not files:
        return noise()
    waves = []
    for file in files:
        try:
            samples, rate = soundfile.read(
                file, dtype="float32", frames=SAMPLE_RATE * COMPARED_SECONDS
            )
        except (soundfile.LibsndfileError, OSError) as error:
            raise HJPruneError(f"--wav {file} cannot be read: {error}") from error
        if rate != SAMPLE_RATE or samples.ndim != 1 or len(samples) == 0:
            raise HJPruneError(f"--wav {file} must be 16 kHz, single-channel and not empty")
        waves.append(torch.from_numpy(samples))
    return waves


def check_task(task: str) -> None:
    """Look for a task without importing it.

    Raises:
        HJPruneError: ESPnet, where it is installed, has no such task.
    """
    espnet = importlib.util.find_spec("espnet2")
    places = espnet.submodule_search_locations if espnet is not None else None
    if places and not any((Path(place) / "tasks" / f"{task}.py").is_file() for place in places):
        raise HJPruneError(f"ESPnet has no task {task}; --task takes asr, slu, st, ...")


def main(argv: Sequence[str] | None = None) -> None:
    """Compact the model."""
    args = get_parser().parse_args(argv)
    if args.timed_rounds < 0:
        raise HJPruneError("--timed_rounds is a number from 0")
    config = read_config(args.train_config)
    finetune = read_config(args.finetune_config) if args.finetune_config else None
    waves = comparison_audio(args.wav)

    check_task(args.task)
    import torch
    import yaml

    from espnet_hjprune.model.espnet_config import finetune_config, unpruned_model
    from espnet_hjprune.model.espnet_model import compact_model, load_gated_model
    from espnet_hjprune.pruning.latency import read_table

    table = read_table(args.latency_table) if args.latency_table else None
    model = load_gated_model(config, args.model_file)
    if table is not None:
        table.check_fits(model.upstream.config)
    result = compact_model(model, waves, args.task, args.allow_off_target == "true")
    assert model.upstream.pruner is not None
    latency = measured_latency(
        model.upstream.pruner, result.architecture, args.timed_rounds, args.ngpu, table
    )
    if latency is not None:
        result.summary["latency"] = latency

    output = Path(args.output_dir)
    output.mkdir(parents=True, exist_ok=True)
    with replaced_file(output / "model.pth") as partial:
        torch.save(result.state, partial)
    write_text(output / "config.yaml", yaml.safe_dump(result.config, sort_keys=False))
    if finetune is not None:
        target = Path(args.finetune_output or output / "finetune.yaml")
        training = finetune_config(result.config, finetune, unpruned_model(config))
        write_text(target, yaml.safe_dump(training, sort_keys=False))
    write_text(output / "summary.json", json.dumps(result.summary, indent=2) + "\n")
    summary = result.summary
    logging.info(
        "Compacted to %.3f of %.3f GMACs (sparsity %.4f) and %.3f of %.3f M parameters; largest "
        "difference from the gated model %.2g",
        summary["actual"]["macs"] / 1e9,
        summary["dense"]["macs"] / 1e9,
        summary["sparsity"]["actual"],
        summary["actual"]["params"] / 1e6,
        summary["dense"]["params"] / 1e6,
        summary["max_abs_diff"],
    )


if __name__ == "__main__":
    run_command(main)
