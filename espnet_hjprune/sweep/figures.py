"""Figures of a sweep: quality against MACs, the Pareto front of a grid, and what is left where."""

from __future__ import annotations

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
from espnet_hjprune.sweep.record import (
    SweepRecord,
    SweptGroup,
    has_separate_targets,
    pareto_front,
)
from espnet_hjprune.target import PARTS

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def plot_methods(record: SweepRecord, upstream: str, path: str | Path) -> Path:
    """Draw the metric against the MACs by method, one panel a test set (paper Figs. 1, 2, 4, 6).

    Points are means over seeds, bars their standard deviation; the dashed line is the unpruned
    model.
    """
    test_sets, unpruned = record.test_sets, record.unpruned[upstream]
    with matplotlib.rc_context(STYLE):
        figure = new_figure(1.0 + 4.4 * len(test_sets), 4.2)
        panels = figure.subplots(1, len(test_sets), squeeze=False)[0]
        for axes, test_set in zip(panels, test_sets, strict=True):
            for method, colour, mark in zip(
                record.methods(upstream), cycle(COLOURS), cycle("osD^vP"), strict=False
            ):
                groups = record.of_method(upstream, method, test_set)
                axes.errorbar(
                    [group.macs / 1e9 for group in groups],
                    [group.mean(test_set) for group in groups],
                    yerr=[group.deviation(test_set) for group in groups],
                    # No line joins targets that differ in two ways.
                    fmt=mark if has_separate_targets(groups) else f"{mark}-",
                    color=colour,
                    ms=6,
                    mec="white",
                    capsize=3,
                    elinewidth=1.2,
                    label=method,
                )
            if unpruned.values(test_set):
                level = unpruned.mean(test_set)
                axes.axhline(level, ls="--", lw=1.2, color=OUTLINE, zorder=1)
                axes.plot(unpruned.macs / 1e9, level, "*", color=INK, ms=11, label="unpruned")
            _name_axes(axes, record, test_set)
        panels[0].legend(loc="best", fontsize=8.5)
        headline(figure, f"{upstream}: methods")
        return save_figure(figure, path)


def plot_grid(record: SweepRecord, upstream: str, method: str, path: str | Path) -> Path:
    """Draw all points of a grid of separate targets with their Pareto front (paper Fig. 3)."""
    groups = record.of_method(upstream, method)
    with matplotlib.rc_context(STYLE):
        figure = new_figure(1.0 + 4.4 * len(record.test_sets), 4.2)
        panels = figure.subplots(1, len(record.test_sets), squeeze=False)[0]
        for axes, test_set in zip(panels, record.test_sets, strict=True):
            shown = [group for group in groups if group.values(test_set)]
            front = pareto_front(shown, test_set, record.higher_is_better)
            axes.plot(
                [group.macs / 1e9 for group in front],
                [group.mean(test_set) for group in front],
                "-",
                color=COLOURS[1],
                label="Pareto front",
            )
            for group in shown:
                x, y = group.macs / 1e9, group.mean(test_set)
                shares = group.target.shares if group.target is not None else ()
                colour = COLOURS[1] if group in front else MUTED
                axes.plot(x, y, "o", color=colour, ms=6, mec="white")
                axes.annotate(
                    " / ".join(f"{share:g}" for share in shares),
                    (x, y),
                    (6, 4),
                    textcoords="offset points",
                    fontsize=7.5,
                    color=MUTED,
                )
            unpruned = record.unpruned[upstream]
            if unpruned.values(test_set):
                level = unpruned.mean(test_set)
                axes.axhline(level, ls="--", lw=1.2, color=OUTLINE, zorder=1, label="unpruned")
            axes.margins(x=0.2, y=0.15)
            _name_axes(axes, record, test_set)
        panels[0].legend(loc="best", fontsize=8.5)
        headline(figure, f"{upstream}: separate targets of {method} ({' / '.join(PARTS)})")
        return save_figure(figure, path)


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
