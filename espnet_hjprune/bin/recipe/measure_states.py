"""Measure how far the hidden states of pruned models are from those of the dense one."""

from __future__ import annotations

import argparse
import json
import logging
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from espnet_hjprune.atomic import write_text
from espnet_hjprune.bin.cli import run_command
from espnet_hjprune.constants import SAMPLE_RATE
from espnet_hjprune.data.audio import AudioError, read_mono
from espnet_hjprune.data.datadir import read_table
from espnet_hjprune.errors import HJPruneError, UsageError
from espnet_hjprune.listing import evenly
from espnet_hjprune.progress import progress_bar

# Frames for each feature from which a linear map is fitted well. With fewer it fits the frames too
# closely, and the variance that it leaves elsewhere is too high, by one in so many or more.
ENOUGH_FRAMES = 20


def get_parser() -> argparse.ArgumentParser:
    """Options of the command."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--teacher", required=True, help="model directory of the dense upstream")
    parser.add_argument(
        "--model",
        required=True,
        action="append",
        metavar="NAME=FILE",
        help="weights of a model that comes from it, with config.yaml beside them",
    )
    parser.add_argument(
        "--fit_on", required=True, metavar="SET=WAV_SCP", help="audio to fit linear maps to"
    )
    parser.add_argument(
        "--sets", nargs="+", required=True, metavar="SET=WAV_SCP", help="audio to compare on"
    )
    parser.add_argument(
        "--num_utterances", type=int, default=200, help="of each set, evenly spread"
    )
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="where it runs")
    parser.add_argument("--output", type=Path, required=True, help="JSON file to write")
    return parser


def _named_paths(entries: Sequence[str], option: str) -> dict[str, Path]:
    """Split ``NAME=PATH`` entries."""
    paths = {}
    for entry in entries:
        name, found, path = entry.partition("=")
        if not (name and found and path):
            raise UsageError(f"{option} '{entry}' is not of the form NAME=PATH; write both")
        paths[name] = Path(path)
    return paths


def _chosen(wav_scp: Path, count: int) -> list[str]:
    """Locations of utterances that are evenly spread over a table, at most ``count``."""
    locations = list(read_table(wav_scp).values())
    if not locations:
        raise HJPruneError(f"{wav_scp} is empty; prepare the data again")
    return evenly(locations, count)


def main(argv: Sequence[str] | None = None) -> None:
    """Write the distances.

    Raises:
        HJPruneError: a model or audio cannot be read, or a model does not come from the teacher.
    """
    args = get_parser().parse_args(argv)
    if args.num_utterances < 1:
        raise UsageError(f"--num_utterances is a whole number from 1, not {args.num_utterances}")
    files = _named_paths(args.model, "--model")
    sets = _named_paths(args.sets, "--sets")
    (fitted_on, fitted_scp) = next(iter(_named_paths([args.fit_on], "--fit_on").items()))
    chosen = {
        name: _chosen(path, args.num_utterances)
        for name, path in (sets | {fitted_on: fitted_scp}).items()
    }

    import torch

    if args.device == "cuda" and not torch.cuda.is_available():
        raise HJPruneError("--device cuda: torch finds no GPU here; give --device cpu")

    from espnet_hjprune.model.loading import load_trained_upstream, load_upstream
    from espnet_hjprune.model.state_distances import StateComparison
    from espnet_hjprune.model.upstream_options import OWN_NAME

    models = {
        name: load_trained_upstream(path.parent / "config.yaml", path).to(args.device)
        for name, path in files.items()
    }
    teacher = load_upstream(OWN_NAME, args.teacher).to(args.device)
    comparison = StateComparison(teacher, models, args.teacher)
    seconds = dict.fromkeys(chosen, 0.0)
    utterances = [(name, place) for name, places in chosen.items() for place in places]
    for name, place in progress_bar(utterances, desc="distances", unit="utt"):
        try:
            wave = torch.from_numpy(read_mono(place, SAMPLE_RATE))
        except AudioError as error:
            raise HJPruneError(f"{error}; correct the wav.scp of {name}") from None
        seconds[name] += len(wave) / SAMPLE_RATE
        comparison.add(name, wave.to(args.device))
    frames = comparison.frames_per_feature(fitted_on)
    if frames < ENOUGH_FRAMES:
        logging.warning(
            "The unexplained variance is too high: linear maps were fitted to %.1f frames of %s "
            "for each feature, fewer than %d; compare on more utterances",
            frames,
            fitted_on,
            ENOUGH_FRAMES,
        )
    record = {
        "teacher": args.teacher,
        "fitted_on": fitted_on,
        "fitted_frames_per_feature": round(frames, 1),
        "sets": {
            name: {
                "utterances": len(chosen[name]),
                "seconds": round(seconds[name], 1),
                "models": {
                    model: asdict(comparison.distances(name, model, fitted_on)) for model in models
                },
            }
            for name in sets
        },
    }
    write_text(args.output, json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    run_command(main)
