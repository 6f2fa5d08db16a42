"""Figures of a pruned model: architecture, pruning over time, cost against quality, confusion."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import cycle, pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib
from matplotlib import colormaps
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from espnet_hjprune.drawing import (
    COLOURS,
    EMPTY,
    INK,
    MUTED,
    OUTLINE,
    STYLE,
    headline,
    new_figure,
    save_figure,
)
from espnet_hjprune.errors import HJPruneError
from espnet_hjprune.report.results_md import method_name
from espnet_hjprune.report.unlabelled import MEASURES, MOMENTS
from espnet_hjprune.training.training_log import TrainingLog

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from espnet_hjprune.scoring.confusion import Confusion

# What the units that have layers are called in figures.
UNIT_TITLES = {"conv": "CNN channels", "head": "attention heads", "ffn": "FFN units"}
# Size of the numbers on the bars in points, and the width of a digit of DejaVu Sans, 0.636 em.
_NUMBER_SIZE = 7.5
_DIGIT_WIDTH = 0.64 * _NUMBER_SIZE
# In points, roughly; it only decides whether a number fits into its bar.
_PANEL_HEIGHT = 150.0
# Width of a bar as a share of a layer's.
_BAR = 0.8


def _draw_layers(
    axes: Axes, what: str, kept: Sequence[int], dense: Sequence[int], slot: float
) -> None:
    """Draw one panel of the architecture; ``slot`` is the width of a layer in points."""
    layers = range(1, len(kept) + 1)
    axes.bar(layers, dense, _BAR, color=EMPTY, edgecolor=OUTLINE, linewidth=0.9)
    axes.bar(layers, kept, _BAR, color=COLOURS[0])
    top = 1.04 * max(dense)
    length = max(len(str(size)) for size in kept) * _DIGIT_WIDTH
    upright = length <= _BAR * slot
    # Points that a number needs inside its bar; in a lower bar it stands above.
    room = (_NUMBER_SIZE if upright else length) + 5
    for layer, size in zip(layers, kept, strict=True):
        inside = size / top * _PANEL_HEIGHT >= room
        axes.annotate(
            str(size),
            (layer, size),
            (0, -3 if inside else 2.5),
            textcoords="offset points",
            ha="center",
            va="top" if inside else "bottom",
            rotation=0 if upright else 90,
            fontsize=_NUMBER_SIZE,
            color="white" if inside else INK,
        )
    axes.set_ylim(0, top)
    axes.set_xlim(0.3, len(kept) + 0.7)
    axes.set_xticks(layers, [str(i) for i in layers])
    axes.tick_params(axis="x", length=0)
    axes.tick_params(labelsize=8)
    axes.yaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
    axes.set_xlabel("layer")
    share = f"{100 * sum(kept) / sum(dense):.0f} %"
    axes.set_title(f"{what}\n{sum(kept):,} of {sum(dense):,} ({share})")


def plot_architecture(summary: Mapping[str, Any], path: str | Path) -> Path:
    """Draw what is left of every layer: CNN channels, attention heads and FFN units.

    Solid bars are kept, outlines are the dense model.

    Args:
        summary: the summary of a compaction, see :func:`~.results_md.read_summary`.
        path: the PNG file to write.

    Raises:
        HJPruneError: the kept and dense sizes do not have the same number of layers.
    """
    layers = summary["layers"]
    panels = []
    for key, what in UNIT_TITLES.items():
        kept, dense = layers[key], layers["dense"][key]
        if len(kept) != len(dense) or not dense:
            raise HJPruneError(
                f"the summary has {len(kept)} pruned and {len(dense)} dense layers of {what}; "
                "rerun stage 5"
            )
        panels.append((what, kept, dense))
    hidden = [layers["hidden"], layers["dense"]["hidden"]]
    width = f"hidden size {hidden[0]}"
    if hidden[0] != hidden[1]:
        width += f" of {hidden[1]}"
    actual, full = summary["actual"], summary["dense"]

    with matplotlib.rc_context(STYLE):
        n_layers = [max(len(kept), 6) for _, kept, _ in panels]
        inches = min(max(0.42 * sum(n_layers), 9.0), 20.0)
        figure = new_figure(inches, 3.6)
        axes = figure.subplots(1, 3, gridspec_kw={"width_ratios": n_layers})
        for axis, panel in zip(axes, panels, strict=True):
            # 72 points an inch; labels and margins leave some 85 % of the width.
            slot = 72 * 0.85 * inches * max(len(panel[1]), 6) / sum(n_layers) / len(panel[1])
            _draw_layers(axis, *panel, slot)
        headline(
            figure,
            f"{method_name(summary)}: {width}, "
            f"{actual['macs'] / 1e9:.3g} of {full['macs'] / 1e9:.3g} GMACs, "
            f"{actual['params'] / 1e6:.3g} of {full['params'] / 1e6:.3g} M parameters",
        )
        return save_figure(figure, path)


def _constraints(log: TrainingLog) -> list[str]:
    """Return the suffixes of the constraints: ``[""]``, or ``["_cnn", "_transformer"]``."""
    names = log.names("train")
    return [
        name.removeprefix("sparsity")
        for name in names
        if name == "sparsity" or (name.startswith("sparsity_") and f"lambda1{name[8:]}" in names)
    ]


def plot_pruning(log: TrainingLog, title: str, path: str | Path) -> Path:
    """Draw a pruning run: sparsity and its target, multipliers, validation loss and quality.

    Args:
        log: the run's training log.
        title: the headline.
        path: the PNG file to write.

    Raises:
        HJPruneError: the log has no sparsity, so it is not of a pruning run.
    """
    constraints = _constraints(log)
    if not constraints:
        raise HJPruneError(
            "the training log has no 'sparsity'; give --prune_exp the directory of stage 4"
        )
    valid = [name for name in ("wer", "cer", "cer_ctc", "acc") if name in log.names("valid")]
    with matplotlib.rc_context(STYLE):
        figure = new_figure(10.0, 6.4)
        (sparse, multiplier), (loss, quality) = figure.subplots(2, 2, sharex=True)
        for suffix, colour in zip(constraints, COLOURS, strict=False):
            part = suffix.replace("_", " ")
            x, y = log.train_series(f"target_sparsity{suffix}")
            sparse.plot(x, [100 * v for v in y], "--", color=colour, lw=1.2, label=f"target{part}")
            x, y = log.train_series(f"sparsity{suffix}")
            sparse.plot(x, [100 * v for v in y], color=colour, label=f"sparsity{part}")
            for name, symbol, line in (("lambda1", "λ₁", "-"), ("lambda2", "λ₂", "--")):
                x, y = log.train_series(name + suffix)
                multiplier.plot(x, y, line, color=colour, label=f"{symbol}{part}")
        sparse.set_title("expected sparsity (%)")
        sparse.set_ylim(bottom=0)
        multiplier.set_title("Lagrange multipliers")
        multiplier.axhline(0, color=OUTLINE, lw=0.8, zorder=1)
        loss.plot(*log.epoch_series("valid", "loss"), "o-", ms=4, color=COLOURS[0], label="valid")
        loss.plot(*log.epoch_series("train", "loss"), color=OUTLINE, label="train")
        loss.set_title("loss")
        labels = {
            "wer": "WER",
            "cer": "CER",
            "cer_ctc": "CER (greedy CTC)",
            "acc": "accuracy",
        }
        for name, colour in zip(valid, COLOURS, strict=False):
            x, y = log.epoch_series("valid", name)
            quality.plot(x, [100 * v for v in y], "o-", ms=4, color=colour, label=labels[name])
        quality.set_title("validation (%)")
        quality.set_ylim(bottom=0)
        for axes in (sparse, multiplier, loss, quality):
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
            axes.margins(x=0.02)
            if axes.get_legend_handles_labels()[0]:
                axes.legend(fontsize=8.5, handlelength=1.8)
        loss.set_xlabel("epoch")
        quality.set_xlabel("epoch")
        headline(figure, title)
        return save_figure(figure, path)


def plot_tradeoff(
    points: Sequence[tuple[str, float, Mapping[str, float]]],
    metric: str,
    title: str,
    path: str | Path,
) -> Path:
    """Draw quality against the share of MACs removed, one line a test set.

    Args:
        points: for each model its name, the share of MACs removed (0 to 1) and, by test set, the
            metric in percent.
        metric: name of the metric, for the axis.
        title: the headline.
        path: the PNG file to write.
    """
    points = sorted(points, key=lambda point: point[1])
    x = [100 * removed for _, removed, _ in points]
    with matplotlib.rc_context(STYLE):
        figure = new_figure(6.4, 4.2)
        axes = figure.subplots()
        test_sets = list(points[0][2])
        for test_set, colour in zip(test_sets, cycle(COLOURS), strict=False):
            y = [values[test_set] for _, _, values in points]
            axes.plot(x, y, "o-", color=colour, ms=7, mec="white", mew=1.2)
        axes.margins(x=0.12, y=0.3)
        for px, (name, _, values) in zip(x, points, strict=True):
            for test_set in test_sets:
                # Away from the other sets: only the lowest of several is labelled below.
                below = len(values) > 1 and values[test_set] == min(values.values())
                axes.annotate(
                    f"{values[test_set]:.2f}",
                    (px, values[test_set]),
                    (0, -8 if below else 8),
                    textcoords="offset points",
                    ha="center",
                    va="top" if below else "bottom",
                    fontsize=8.5,
                )
            axes.axvline(px, color="#e4e8ed", lw=0.8, zorder=0)
            axes.annotate(
                name,
                (px, 0),
                (0, 6),
                xycoords=("data", "axes fraction"),
                textcoords="offset points",
                ha="center",
                fontsize=8.5,
                color=MUTED,
            )
        low, high = axes.get_ylim()
        lowest = low
        last = points[-1][2]
        for test_set in sorted(test_sets, key=lambda name: last[name]):
            place = max(last[test_set], lowest)
            lowest = place + 0.06 * (high - low)
            axes.annotate(
                test_set,
                (x[-1], place),
                (10, 0),
                textcoords="offset points",
                va="center",
                color=COLOURS[test_sets.index(test_set) % len(COLOURS)],
                fontweight="bold",
            )
        axes.set_title(f"{metric} (%)", pad=10)
        axes.set_xlabel("MACs removed (%)")
        headline(figure, title)
        return save_figure(figure, path)


def plot_distances(distances: Mapping[str, Any], title: str, path: str | Path) -> Path:
    """Draw the distance of every hidden state from the dense model's, one colour a test set.

    Args:
        distances: what ``recipe.measure_states`` has written.
        title: the headline.
        path: the PNG file to write.
    """
    with matplotlib.rc_context(STYLE):
        figure = new_figure(10.0, 3.6)
        panels = figure.subplots(1, len(MEASURES))
        for axes, (measure, name) in zip(panels, MEASURES.items(), strict=True):
            for (test_set, part), colour in zip(
                distances["sets"].items(), cycle(COLOURS), strict=False
            ):
                for (model, when), line in zip(MOMENTS.items(), ("--", "-"), strict=True):
                    values = [100 * value for value in part["models"][model][measure]]
                    label = f"{test_set} {when}"
                    axes.plot(range(len(values)), values, line, color=colour, label=label)
            axes.set_title(f"{name} (%)")
            axes.set_xlabel("hidden state; 0 is the input of the first layer")
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
            axes.set_ylim(bottom=0)
        panels[0].legend(fontsize=8.5, handlelength=1.8)
        headline(figure, title)
        return save_figure(figure, path)


def plot_confusion(confusion: Confusion, title: str, path: str | Path) -> Path:
    """Draw a confusion matrix: true labels down, predicted labels across, shares by row.

    A cell's colour is its share of the row's utterances: blue on the diagonal, orange elsewhere,
    so that a rare mistake is as easy to see as it is to miss in one colour. Shares are printed in
    percent. Labels of one scenario (what is before the first underscore) stand together.

    Args:
        confusion: the counts.
        title: the headline.
        path: the PNG file to write.
    """
    labels = confusion.labels
    size = len(labels)
    rows = {
        true: sum(count for (expected, _), count in confusion.counts.items() if expected == true)
        for true in labels
    }
    # Inches: a cell holds its number, and a character of a label takes 0.066.
    cell = 0.24 if size > 24 else 0.34
    longest = max(map(len, labels)) * 0.066
    with matplotlib.rc_context({**STYLE, "axes.grid": False}):
        figure = new_figure(
            max(size * cell + longest + 0.7, 6.0), max(size * cell + longest + 1.2, 3.6)
        )
        axes = figure.subplots()
        scales = {True: colormaps["Blues"], False: colormaps["Oranges"]}
        for (true, predicted), count in confusion.counts.items():
            x, y = labels.index(predicted), labels.index(true)
            share = count / rows[true]
            # Pale ends of the colour scales are left out: any mistake must be seen.
            colour = scales[true == predicted](0.25 + 0.65 * share)
            axes.add_patch(Rectangle((x - 0.5, y - 0.5), 1, 1, facecolor=colour, linewidth=0))
            axes.annotate(
                f"{100 * share:.0f}" if share >= 0.01 else "<1",
                (x, y),
                ha="center",
                va="center",
                fontsize=6 if size > 24 else 7.5,
                color="white" if share > 0.5 else INK,
            )
        for before, after in pairwise(range(size)):
            same = labels[before].split("_")[0] == labels[after].split("_")[0]
            line: dict[str, Any] = {
                "color": "#eef1f4" if same else OUTLINE,
                "lw": 0.6,
                "zorder": 0.5,
            }
            axes.axhline(before + 0.5, **line)
            axes.axvline(before + 0.5, **line)
        axes.set_xlim(-0.5, size - 0.5)
        axes.set_ylim(size - 0.5, -0.5)
        axes.set_aspect("equal")
        axes.spines[["top", "right"]].set_visible(True)
        axes.set_xticks(range(size), labels, rotation=90, fontsize=7.5)
        axes.set_yticks(range(size), [f"{label}  {rows[label]}" for label in labels], fontsize=7.5)
        axes.tick_params(length=0, labelcolor=INK)
        axes.set_xlabel("predicted")
        axes.set_ylabel("true, with the number of utterances")
        axes.set_title("share of a row's utterances (%)")
        headline(figure, title)
        return save_figure(figure, path)
