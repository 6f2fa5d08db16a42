"""RESULTS.md of a pruning without labels: cost, and distances from the dense upstream."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from espnet_hjprune.errors import HJPruneError
from espnet_hjprune.markdown import markdown_table
from espnet_hjprune.report.results_json import METHOD_KEYS
from espnet_hjprune.report.results_md import (
    Image,
    Rows,
    cost_cells,
    environment_section,
    image_links,
    method_name,
    target_table,
)

# What was compared, as recipe.measure_states calls it in the recipe, and what the report does.
MODELS = {"compacted": "after compaction", "distilled": "after the second distillation"}
MEASURES = {"relative_l2": "relative L2", "unexplained": "unexplained variance"}


@dataclass(frozen=True)
class UnlabelledModel:
    """A model that was pruned without labels.

    Attributes:
        name: the method with its target.
        summary: of its compaction.
        distances: what recipe.measure_states wrote of it.
    """

    name: str
    summary: Mapping[str, Any]
    distances: Mapping[str, Any]


def read_unlabelled_model(summary: Mapping[str, Any], distances: Path) -> UnlabelledModel:
    """A model from the summary of its compaction and the file of its distances.

    Raises:
        HJPruneError: the file is missing or not what recipe.measure_states writes.
    """
    try:
        found = json.loads(distances.read_text(encoding="utf-8"))
        for part in found["sets"].values():
            for model in MODELS:
                _ = [part["models"][model][measure][-1] for measure in MEASURES]
    except FileNotFoundError:
        raise HJPruneError(f"{distances} does not exist; run stage 7 of the recipe") from None
    except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
        raise HJPruneError(
            f"{distances} has no distances ({error!r}); remove it and rerun stage 7"
        ) from None
    return UnlabelledModel(method_name(summary), summary, found)


def cost_table(models: Sequence[UnlabelledModel]) -> Rows:
    """Return the rows of the table of costs; the first is the dense model."""
    first = models[0].summary
    header = ["model", f"GMACs ({first.get('seconds', 10.0):g} s)", "MACs removed", "parameters"]
    rows = [[*header, "hidden size"]]
    dense = first["dense"]
    for name, summary, cost in (
        ("dense", first, dense),
        *((model.name, model.summary, model.summary["actual"]) for model in models),
    ):
        layers = summary["layers"] if cost is not dense else summary["layers"]["dense"]
        removed = 1 - cost["macs"] / dense["macs"]
        cells = cost_cells(cost["macs"], removed, cost["params"])
        rows.append([name, *cells, str(layers["hidden"])])
    return rows


def distance_table(models: Sequence[UnlabelledModel]) -> Rows:
    """Return the rows of the table of distances, means over all hidden states, in percent."""
    header = [f"{name} {when} (%)" for name in MEASURES.values() for when in MODELS.values()]
    rows = [["model", "set", *header]]
    for model in models:
        for name, part in model.distances["sets"].items():
            means = [
                sum(values := part["models"][when][measure]) / len(values)
                for measure in MEASURES
                for when in MODELS
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
        "Shares removed; compaction makes up for what the gates lack:\n",
        markdown_table(
            target_table([model.name for model in models], [model.summary for model in models])
        ),
        "## Distance from the dense model\n",
        markdown_table(distance_table(models)),
        "Means over all hidden states. Relative L2: squared distance of the features that are "
        "left, over the squares of the dense model's. Unexplained variance: share of the variance "
        "of all features of the dense model that the best linear map of the pruned model's state "
        f"does not give, fitted to {first['fitted_on']}; it compares models with different "
        f"features left. Utterances: {counted}.\n",
    ]
    return "\n".join([*parts, *image_links(images, output)])


def unlabelled_record(title: str, models: Sequence[UnlabelledModel]) -> dict[str, Any]:
    """Collect the figures of RESULTS.md for programs to read."""
    return {
        "title": title,
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
