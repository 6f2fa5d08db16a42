"""Benchmark figures as text."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from espnet_hjprune.markdown import markdown_table

Row = dict[str, Any]
# Columns, and how each is written; those in OPTIONAL stand only where some row has them.
COLUMNS: dict[str, Callable[[Row], str]] = {
    "model": lambda row: row["model"],
    "audio": lambda row: f"{row['batch']} x {row['seconds']:g} s",
    "latency (s)": lambda row: f"{row['latency']:.{3 if row['latency'] >= 0.1 else 4}f}",
    "predicted (s)": lambda row: f"{row['predicted']:.3f}" if "predicted" in row else "-",
    "RTF": lambda row: f"{row['real_time_factor']:.3g}",
    "peak memory (MiB)": lambda row: _mebibytes(row["peak_memory"]),
    "reserved memory (MiB)": lambda row: _mebibytes(row["reserved_memory"]),
    "GMACs": lambda row: f"{row['macs'] / 1e9:.2f}",
    "share of peak": lambda row: f"{100 * row['share_of_peak']:.3g}%",
    "MAC reduction": lambda row: f"{row['mac_reduction']:.2f}",
    "speed-up": lambda row: f"{row['speed_up']:.2f}",
    "speed-up / reduction": lambda row: f"{row['speed_up'] / row['mac_reduction']:.2f}",
    "against dense / reduction": lambda row: (
        f"{row['against_dense'] / row['mac_reduction']:.2f}" if "against_dense" in row else "-"
    ),
    "time / bare step": lambda row: f"{row['over_bare']:.2f}" if "over_bare" in row else "-",
}
OPTIONAL = {
    "predicted (s)": "predicted",
    "reserved memory (MiB)": "reserved_memory",
    "against dense / reduction": "against_dense",
    "time / bare step": "over_bare",
}


def _mebibytes(memory: int | None) -> str:
    return "-" if memory is None else f"{memory / 2**20:.0f}"


def as_table(result: dict[str, Any]) -> str:
    """A Markdown table of a result, with the machine above it."""
    rows = result["rows"]
    headline = (
        f"{describe_machine(result['machine'])}; speed-up against {rows[0]['model']}, median of "
        f"{len(rows[0]['latencies'])} rounds"
    )
    shown = [
        column
        for column in COLUMNS
        if column not in OPTIONAL or any(row.get(OPTIONAL[column]) is not None for row in rows)
    ]
    table = [shown, *([COLUMNS[column](row) for column in shown] for row in rows)]
    return f"{headline}\n\n{markdown_table(table)}"


def describe_machine(machine: dict[str, Any]) -> str:
    """What the figures were measured on, in one line."""
    parts = [
        machine["device"],
        f"driver {machine['driver']}" if machine["driver"] else "",
        f"{machine['threads']} threads",
        f"torch {machine['torch']}",
        f"{machine['dtype']}{' weights' if machine['half_weights'] else ''}",
        f"peak {machine['product_rate'] / 1e12:.3g} TFLOP/s in a matrix product",
    ]
    return ", ".join(filter(None, parts))
