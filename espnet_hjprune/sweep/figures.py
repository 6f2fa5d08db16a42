"""Figures of a sweep: quality against MACs, the Pareto front of a grid, and what is left where."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING

import matplotlib
from matplotlib import colormaps

from espnet_hjprune.drawing import (
    COLOURS,
    INK,
    MUTED,
    OUTLINE,
    STYLE,
    headline,
    new_figure,
    save_figure,
)
from espnet_hjprune.report.figures import UNIT_TITLES
from espnet_hjprune.sweep.config import GivenPoint
from espnet_hjprune.sweep.record import SweepRecord, SweptGroup, has_separate_targets

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def plot_methods(
    record: SweepRecord, upstream: str, path: str | Path, given: Sequence[GivenPoint] = ()
) -> Path:
    """Draw the metric against the MACs by method, one panel a test set (paper Figs. 1, 2, 4, 6).

    Points are means over seeds, bars their standard deviation; the dashed line is the unpruned
    model. Of separate targets the Pareto front is drawn, see :meth:`.SweepRecord.curve`. Open
    markers are points that are ``given``.
    """
    test_sets, unpruned = record.test_sets, record.unpruned[upstream]
    with matplotlib.rc_context(STYLE):
        figure = new_figure(1.0 + 4.4 * len(test_sets), 4.2)
        panels = figure.subplots(1, len(test_sets), squeeze=False)[0]
        for axes, test_set in zip(panels, test_sets, strict=True):
            for method, colour, mark in zip(
                record.methods(upstream), cycle(COLOURS), cycle("osD^vP"), strict=False
            ):
                curve = record.curve(upstream, method)
                groups = [group for group in curve if group.values(test_set)]
                axes.errorbar(
                    *_coordinates(groups, test_set),
                    yerr=[group.deviation(test_set) for group in groups],
                    fmt=f"{mark}-",
                    color=colour,
                    ms=6,
                    mec="white",
                    capsize=3,
                    elinewidth=1.2,
                    label=f"{method} (Pareto front)" if has_separate_targets(curve) else method,
                )
            _draw_unpruned(axes, unpruned, test_set)
            beside = [point for point in given if point.test_set == test_set]
            for point, mark in zip(beside, cycle("oDs^v"), strict=False):
                x, y = point.gmacs, point.value
                axes.plot(x, y, mark, color=INK, ms=7, mfc="none", label=f"{point.name} (given)")
            _name_axes(axes, record, test_set)
        # The panel with most to say names the markers for all.
        most = max(panels, key=lambda axes: len(axes.get_legend_handles_labels()[1]))
        most.legend(loc="best", fontsize=8.5)
        headline(figure, f"{upstream}: methods")
        return save_figure(figure, path)


def plot_grid(record: SweepRecord, upstream: str, method: str, path: str | Path) -> Path:
    """Draw a grid of separate targets, one series a share of the Transformer (paper Fig. 3).

    Rings are around the points of the Pareto front on the first test set, which stand for the
    method in :func:`plot_methods`; numbers are the CNN's shares there.
    """
    groups, front = record.of_method(upstream, method), record.curve(upstream, method)
    series: dict[float, list[SweptGroup]] = {}
    for group in groups:
        if group.target is not None:
            series.setdefault(group.target.by_name()["transformer"], []).append(group)
    with matplotlib.rc_context(STYLE):
        figure = new_figure(1.0 + 4.4 * len(record.test_sets), 4.2)
        panels = figure.subplots(1, len(record.test_sets), squeeze=False)[0]
        for axes, test_set in zip(panels, record.test_sets, strict=True):
            for share, colour in zip(sorted(series), cycle(COLOURS), strict=False):
                shown = [group for group in series[share] if group.values(test_set)]
                axes.plot(
                    *_coordinates(shown, test_set),
                    "o-",
                    color=colour,
                    ms=5,
                    label=f"Transformer {share:g}",
                )
            selected = [group for group in front if group.values(test_set)]
            axes.plot(
                *_coordinates(selected, test_set),
                "o",
                color=INK,
                ms=10,
                mfc="none",
                label=f"Pareto front on {record.test_sets[0]}",
            )
            for group in selected:
                shares = group.target.by_name() if group.target is not None else {}
                axes.annotate(
                    f"{shares['cnn']:g}",
                    (group.macs / 1e9, group.mean(test_set)),
                    (6, 5),
                    textcoords="offset points",
                    fontsize=7.5,
                    color=MUTED,
                )
            _draw_unpruned(axes, record.unpruned[upstream], test_set)
            axes.margins(x=0.1, y=0.1)
            _name_axes(axes, record, test_set)
        panels[0].legend(loc="best", fontsize=8.5)
        headline(figure, f"{upstream}: separate targets of {method}, numbers are those of the CNN")
        return save_figure(figure, path)


def _coordinates(groups: Sequence[SweptGroup], test_set: str) -> tuple[list[float], list[float]]:
    """GMACs and mean of the metric of groups that were decoded on the set."""
    return [group.macs / 1e9 for group in groups], [group.mean(test_set) for group in groups]


def _draw_unpruned(axes: Axes, unpruned: SweptGroup, test_set: str) -> None:
    """Draw the unpruned model, where it was decoded on the set, and its level."""
    if unpruned.values(test_set):
        level = unpruned.mean(test_set)
        axes.axhline(level, ls="--", lw=1.2, color=OUTLINE, zorder=1)
        axes.plot(unpruned.macs / 1e9, level, "*", color=INK, ms=11, label="unpruned")


def plot_remaining(record: SweepRecord, upstream: str, method: str, path: str | Path) -> Path:
    """Draw the share of units that is left in every layer for every target (paper Fig. 5).

    Means over seeds; what has no units of a kind is left out.
    """
    groups = record.of_method(upstream, method)
    with matplotlib.rc_context(STYLE | {"axes.grid": False}):
        figure = new_figure(12.0, 1.6 + 0.42 * len(groups))
        panels = figure.subplots(1, len(UNIT_TITLES))
        for axes, (kind, title) in zip(panels, UNIT_TITLES.items(), strict=True):
            shares = [_shares(group, kind) for group in groups]
            image = axes.imshow(
                shares, aspect="auto", vmin=0, vmax=1, cmap=colormaps["YlGnBu"], origin="upper"
            )
            for row, values in enumerate(shares):
                for column, value in enumerate(values):
                    axes.text(
                        column,
                        row,
                        f"{100 * value:.0f}",
                        ha="center",
                        va="center",
                        fontsize=7.5,
                        color="white" if value > 0.6 else INK,
                    )
            axes.set_xticks(range(len(shares[0])), [str(n + 1) for n in range(len(shares[0]))])
            axes.set_yticks(range(len(groups)), [str(group.target) for group in groups])
            axes.tick_params(length=0)
            axes.set_title(f"{title} left (%)")
            axes.set_xlabel("layer")
        panels[0].set_ylabel("target")
        figure.colorbar(image, ax=panels, shrink=0.8, label="share left")
        headline(figure, f"{upstream}: what {method} leaves")
        return save_figure(figure, path)


def _shares(group: SweptGroup, kind: str) -> list[float]:
    """Mean share of units left, layer by layer."""
    columns = zip(
        *(
            [
                left / full if full else 0.0
                for left, full in zip(model.layers[kind], model.layers["dense"][kind], strict=True)
            ]
            for model in group.models
        ),
        strict=True,
    )
    return [sum(column) / len(column) for column in columns]


def _name_axes(axes: Axes, record: SweepRecord, test_set: str) -> None:
    axes.set_title(f"{test_set}: {record.metric} (%)")
    axes.set_xlabel(f"GMACs ({record.seconds:g} s)")
