"""A decoded model, wherever its results are: experiment, ``results.json``, point of a sweep."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from espnet_hjprune.errors import HJPruneError
from espnet_hjprune.report.results_json import recorded_alignments
from espnet_hjprune.report.results_md import METRICS, Metric
from espnet_hjprune.scoring.alignment import Alignments, read_alignments

RESULTS = "results.json"


@dataclass(frozen=True)
class Decoding:
    """What a model recognised.

    Attributes:
        name: what it is called.
        alignments: words of every utterance by test set.
        metric: figure of merit, where it is known.
    """

    name: str
    alignments: dict[str, Alignments]
    metric: Metric | None = None


def find_decoding(place: str) -> Decoding:
    """Read the results of a model.

    Args:
        place: the directory of its decoded sets (``exp/asr_compact_x/decode_asr``), or a
            ``results.json``, or the directory of one, such as a point of a sweep. ``:NAME`` or
            ``:NUMBER``, from 0 for the unpruned model, says which model of a ``results.json``;
            without it there must be one compact model, which is meant.

    Raises:
        HJPruneError: there are no such results, or they have no alignments.
    """
    path, model = Path(place), ""
    if not path.exists() and ":" in place:
        text, _, model = place.rpartition(":")
        path = Path(text)
    if path.is_dir() and not (path / RESULTS).is_file():
        return _decoded_sets(path, place)
    return _recorded(path / RESULTS if path.is_dir() else path, model)


def _decoded_sets(directory: Path, place: str) -> Decoding:
    """Read a directory of decoded sets."""
    found = sorted(path.parent for path in directory.glob("*/score_wer/result.txt"))
    if not found:
        raise HJPruneError(
            f"{place} has neither scored sets (SET/score_wer) nor a {RESULTS}; name the directory "
            "of the decoded sets of an experiment, or a point of a sweep"
        )
    return Decoding(place, {path.parent.name: read_alignments(path) for path in found})


def _recorded(path: Path, model: str) -> Decoding:
    """Read a model of ``results.json``."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        models: list[Mapping[str, Any]] = record["models"]
        metrics = {metric.name: metric for metric in METRICS.values()}
        metric = metrics[record["metric"]["name"]]
        names = [str(entry["name"]) for entry in models]
        entry = models[_place(path, names, model)]
        alignments = recorded_alignments(record, entry)
    except (FileNotFoundError, NotADirectoryError):
        raise HJPruneError(
            f"{path} does not exist; name the directory of decoded sets, or a {RESULTS}"
        ) from None
    except (UnicodeDecodeError, json.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
        raise HJPruneError(
            f"{path} is no {RESULTS} of stage 7 ({error!r}); make it again by stage 7"
        ) from None
    if not alignments:
        raise HJPruneError(
            f"{path} is from before alignments were kept; rerun stage 7, or name the directory of "
            "the decoded sets"
        )
    return Decoding(f"{entry['name']} ({path.parent})", alignments, metric)


def _place(path: Path, names: list[str], model: str) -> int:
    """Which model is meant."""
    listed = ", ".join(f"{number} '{name}'" for number, name in enumerate(names))
    if not model and len(names) == 2:
        return 1
    if model.isdecimal() and int(model) < len(names):
        return int(model)
    if names.count(model) == 1:
        return names.index(model)
    wanted = f"has no one model '{model}'" if model else "has several compact models"
    raise HJPruneError(f"{path} {wanted}; append :NUMBER of one of {listed}")
