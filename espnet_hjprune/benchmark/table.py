"""Benchmark figures as text."""

from __future__ import annotations

from typing import Any

from espnet_hjprune.markdown import markdown_table

COLUMNS = (
    "model",
    "audio",
    "latency (s)",
    "RTF",
    "peak memory (MiB)",
    "GMACs",
    "MAC reduction",
    "speed-up",
    "speed-up / reduction",
)


def as_table(result: dict[str, Any]) -> str:
    """A Markdown table of a result, with the machine above it."""
    machine = result["machine"]
    headline = (
        f"{machine['device']}, {machine['threads']} threads, torch {machine['torch']}, "
        f"{machine['dtype']}; speed-up against {result['rows'][0]['model']}, median of "
        f"{len(result['rows'][0]['latencies'])} rounds"
    )
    table = [COLUMNS]
    for row in result["rows"]:
        memory = row["peak_memory"]
        cells = (
            row["model"],
            f"{row['batch']} x {row['seconds']:g} s",
            f"{row['latency']:.3f}",
            f"{row['real_time_factor']:.4f}",
            "-" if memory is None else f"{memory / 2**20:.0f}",
            f"{row['macs'] / 1e9:.2f}",
            f"{row['mac_reduction']:.2f}",
            f"{row['speed_up']:.2f}",
            f"{row['speed_up'] / row['mac_reduction']:.2f}",
        )
        table.append(cells)
    return f"{headline}\n\n{markdown_table(table)}"
