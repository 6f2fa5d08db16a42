"""What all figures have in common: colours, fonts and files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from espnet_hjprune.atomic import replaced_file

if TYPE_CHECKING:
    from matplotlib.typing import RcKeyType

# Text; what explains it; lines around and behind; empty bars.
INK = "#1f2933"
MUTED = "#66717d"
OUTLINE = "#b4bec9"
EMPTY = "#f3f5f8"
COLOURS = ("#2367ae", "#d9702a", "#2f8f6b", "#8a4fa3", "#c2447c", "#8c6d1f")
# Parameters of matplotlib for :func:`matplotlib.rc_context`.
STYLE: dict[RcKeyType, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 9.5,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": OUTLINE,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 10.5,
    "axes.titlelocation": "left",
    "axes.titlepad": 9,
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "grid.color": "#e4e8ed",
    "grid.linewidth": 0.8,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "legend.frameon": False,
    "lines.linewidth": 1.8,
}


def new_figure(width: float, height: float) -> Figure:
    """Make an empty figure; the size is in inches."""
    # Around panels (inches) and between them (shares of the figure); wider than matplotlib's own.
    margins = ConstrainedLayoutEngine(w_pad=0.08, h_pad=0.08, wspace=0.03, hspace=0.05)
    figure = Figure(figsize=(width, height), dpi=160, layout=margins)
    # Without pyplot, which would look for a screen.
    FigureCanvasAgg(figure)
    return figure


def headline(figure: Figure, text: str) -> None:
    """Write the headline of a whole figure."""
    figure.suptitle(text, fontsize=12, fontweight="bold", x=0.01, ha="left")


def save_figure(figure: Figure, path: str | Path) -> Path:
    """Write a figure as PNG and return its path."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with replaced_file(path) as partial:
        figure.savefig(partial, format="png", facecolor="white")
    return path
