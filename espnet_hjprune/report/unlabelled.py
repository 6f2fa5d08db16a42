"""RESULTS.md of a pruning without labels: cost, and distances from the dense upstream."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from espnet_hjprune.config_file import read_config
from espnet_hjprune.errors import HJPruneError
from espnet_hjprune.markdown import markdown_table
from espnet_hjprune.report.results_json import METHOD_KEYS
from espnet_hjprune.report.results_md import (
    Image,
    Rows,
    cost_cells,
    environment,
    environment_section,
    image_links,
    latency_cell,
    latency_note,
    method_name,
    target_table,
)

# Models that were compared, as the recipe calls them, and what the report calls them.
MOMENTS = {"compacted": "after compaction", "distilled": "after the second distillation"}
MEASURES = {"relative_l2": "relative L2", "unexplained": "unexplained variance"}


@dataclass(frozen=True)
class UnlabelledModel:
    """A model that was pruned without labels.

    Attributes:
        name: the method with its target.
        summary: of its compaction.
        distances: what recipe.measure_states wrote of it.
        projected: whether it learned by projections.
    """

    name: str
    summary: Mapping[str, Any]
    distances: Mapping[str, Any]
    projected: bool


def read_unlabelled_model(
    summary: Mapping[str, Any], distances: Path, prune_exp: Path
) -> UnlabelledModel:
    """A model from the summary of its compaction, the file of its distances, and its pruning.

    Raises:
        HJPruneError: the file is missing or not what recipe.measure_states writes.
    """
    try:
        found = json.loads(distances.read_text(encoding="utf-8"))
        for part in found["sets"].values():
            for model in MOMENTS:
                _ = [part["models"][model][measure][-1] for measure in MEASURES]
    except FileNotFoundError:
        raise HJPruneError(f"{distances} does not exist; run stage 7 of the recipe") from None
    except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
        raise HJPruneError(
            f"{distances} has no distances ({error!r}); remove {distances.parent / '.done'} and "
            "rerun stage 7"
        ) from None
    options = read_config(prune_exp / "config.yaml").get("model_conf") or {}
    return UnlabelledModel(
        method_name(summary), summary, found, projected=bool(options.get("projection"))
    )


def cost_table(models: Sequence[UnlabelledModel]) -> Rows:
    """Return the rows of the table of costs; the first is the dense model."""
    first = models[0].summary
    header = ["model", f"GMACs ({first.get('seconds', 10.0):g} s)", "MACs removed", "parameters"]
    rows = [[*header, "latency (ms)", "hidden size"]]
    dense = first["dense"]
    for name, summary, cost in (
        ("dense", first, dense),
        *((model.name, model.summary, model.summary["actual"]) for model in models),
    ):
        layers = summary["layers"] if cost is not dense else summary["layers"]["dense"]
        removed = 1 - cost["macs"] / dense["macs"]
        cells = cost_cells(cost["macs"], removed, cost["params"])
        seconds = (summary.get("latency") or {}).get("dense" if cost is dense else "actual")
        rows.append([name, *cells, latency_cell(seconds), str(layers["hidden"])])
    return rows


def distance_table(models: Sequence[UnlabelledModel]) -> Rows:
    """Return the rows of the table of distances, means over all hidden states, in percent."""
    header = [f"{name} {when} (%)" for name in MEASURES.values() for when in MOMENTS.values()]
    rows = [["model", "set", *header]]
    for model in models:
        for name, part in model.distances["sets"].items():
            means = [
                sum(values := part["models"][model_name][measure]) / len(values)
                for measure in MEASURES
                for model_name in MOMENTS
            ]
            rows.append([model.name, name, *(f"{100 * mean:.2f}" for mean in means)])
    return rows


def render_unlabelled(
    title: str, models: Sequence[UnlabelledModel], images: Sequence[Image], output: Path
) -> str:
    """Return the text of RESULTS.md; paths of figures are relative to ``output``'s directory."""
    first = models[0].distances
    counted = ", ".join(
        f"{name} {part['utterances']} ({part['seconds'] / 60:.1f} min)"
        for name, part in first["sets"].items()
    )
    parts = [
        f"# {title}\n",
        environment_section(),
        "## Cost\n",
        markdown_table(cost_table(models)),
        "MACs and parameters are those of the speech encoder.\n",
        latency_note([model.summary for model in models]) + "\n",
        "Shares removed; compaction makes up for what the gates lack:\n",
        markdown_table(
            target_table([model.name for model in models], [model.summary for model in models])
        ),
        "## Distance from the dense model\n",
        markdown_table(distance_table(models)),
        "Means over all hidden states. Relative L2: squared distance of the features that are "
        "left, over the squares of the dense model's. Unexplained variance: share of the variance "
        "of all features of the dense model that the best linear map of the pruned model's state "
        f"does not give, fitted to {first['fitted_on']} "
        f"({first['fitted_frames_per_feature']:g} frames a feature); it compares models with "
        f"different features left. Utterances: {counted}.\n",
    ]
    if any(model.projected for model in models):
        parts.append(
            "Models that learned by projections need not have their features where the dense model "
            "has them: the relative L2 says nothing of them.\n"
        )
    return "\n".join([*parts, *image_links(images, output)])


def unlabelled_record(title: str, models: Sequence[UnlabelledModel]) -> dict[str, Any]:
    """Collect the figures of RESULTS.md for programs to read."""
    return {
        "title": title,
        "seconds": float(models[0].summary.get("seconds", 10.0)),
        "environment": dict(environment()),
        "models": [
            {
                "name": model.name,
                "dense": model.summary["dense"],
                "actual": model.summary["actual"],
                **{key: model.summary[key] for key in METHOD_KEYS if key in model.summary},
                "distances": model.distances,
            }
            for model in models
        ],
    }
