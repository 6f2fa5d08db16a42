"""The figure of a benchmark: speed-up against MAC reduction."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib

from espnet_hjprune.drawing import COLOURS, MUTED, OUTLINE, STYLE, headline, new_figure, save_figure


def plot_speed(result: Mapping[str, Any], path: str | Path) -> Path:
    """Draw speed-up against MAC reduction, a colour and mark for each audio length and batch.

    Models on the dashed line are as much faster as they have fewer MACs.

    Args:
        result: What the benchmark measured: ``machine`` and ``rows``; the first row of a setting
            is its reference.
        path: The PNG file to write.
    """
    machine, rows = result["machine"], result["rows"]
    settings = list(dict.fromkeys((row["batch"], row["seconds"]) for row in rows))
    with matplotlib.rc_context(STYLE):
        figure = new_figure(6.4, 4.8)
        axes = figure.subplots()
        for number, setting in enumerate(settings):
            colour = COLOURS[number % len(COLOURS)]
            mark = "osD^v"[number // len(COLOURS) % 5]
            mine = [row for row in rows if (row["batch"], row["seconds"]) == setting]
            x = [row["mac_reduction"] for row in mine]
            y = [row["speed_up"] for row in mine]
            label = f"{setting[0]} x {setting[1]:g} s"
            axes.plot(x, y, mark, color=colour, ms=7, mec="white", mew=1.2, label=label)
        # Names once, at the first setting's points; those of other packages would overlap.
        for row in rows:
            named = row["mac_reduction"] > 1.01 or row["model"].split(",")[0] == "dense"
            if named and (row["batch"], row["seconds"]) == settings[0]:
                axes.annotate(
                    row["model"],
                    (row["mac_reduction"], row["speed_up"]),
                    (-8, 4),
                    textcoords="offset points",
                    ha="right",
                    fontsize=8.5,
                    color=MUTED,
                )
        top = 1.12 * max(max(row["mac_reduction"], row["speed_up"]) for row in rows)
        axes.plot([0.6, top], [0.6, top], "--", color=OUTLINE, lw=1.2, zorder=1)
        axes.set_xlim(min(0.6, 0.9 * min(row["mac_reduction"] for row in rows)), top)
        axes.set_ylim(min(0.8, 0.95 * min(row["speed_up"] for row in rows)), top)
        axes.set_xlabel("MAC reduction (times)")
        axes.set_title(f"speed-up against {rows[0]['model']} (times)")
        axes.legend(loc="upper left", fontsize=8.5)
        headline(figure, f"{machine['device']}, {machine['threads']} threads, {machine['dtype']}")
        return save_figure(figure, path)
