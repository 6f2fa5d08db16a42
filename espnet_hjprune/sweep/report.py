"""Tables, figures and the page of a sweep, from its results on disk."""

from __future__ import annotations

import base64
import html
import itertools
import logging
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from espnet_hjprune.atomic import write_text
from espnet_hjprune.markdown import markdown_table
from espnet_hjprune.report.results_md import latency_setting
from espnet_hjprune.sweep.comparisons import comparison_note, comparison_table
from espnet_hjprune.sweep.config import GivenPoint
from espnet_hjprune.sweep.record import SweepRecord, SweptGroup, has_separate_targets

PAGE_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #1f2933; margin: 2rem auto; max-width: 72rem;
       padding: 0 1rem; }
h1, h2, h3 { line-height: 1.2; }
figure { margin: 1.5rem 0; }
.wide { overflow-x: auto; }
figcaption { color: #66717d; }
img { max-width: 100%; height: auto; display: block; margin: 1rem 0; }
table { border-collapse: collapse; margin: 1rem 0; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .8rem; border-bottom: 1px solid #e4e8ed; text-align: right; }
th:first-child, td:first-child, th:nth-child(2), td:nth-child(2) { text-align: left; }
p { color: #66717d; }
"""
# Headline of the tables of differences.
DIFFERENCES = "Differences"


@dataclass(frozen=True)
class Section:
    """What is shown of one upstream.

    Attributes:
        title: its headline.
        table: rows of the table of all models, the first being the header.
        comparisons: rows of the table of differences, the same way; none if there are none.
        images: captions and files of the figures.
    """

    title: str
    table: list[list[str]]
    comparisons: list[list[str]]
    images: list[tuple[str, Path]]


def sweep_table(record: SweepRecord, upstream: str) -> list[list[str]]:
    """Rows of the table of an upstream: the unpruned model, then methods by rising target."""
    sets = record.test_sets
    header = ["method", "target", "seeds", f"GMACs ({record.seconds:g} s)", "MACs removed"]
    header += ["parameters", "latency", "speed-up"]
    rows = [[*header, *(f"{name} {record.metric} (%)" for name in sets)]]
    groups = [record.unpruned[upstream]]
    for method in record.methods(upstream):
        groups += record.of_method(upstream, method)
    for group in groups:
        rows.append(
            [
                group.method,
                "-" if group.target is None else str(group.target),
                "-" if group.target is None else str(len(group.models)),
                f"{group.macs / 1e9:.3g}",
                f"{100 * group.macs_removed:.1f} %",
                f"{group.params / 1e6:.3g} M",
                *_latency_cells(group),
                *(_with_spread(group, name) for name in sets),
            ]
        )
    return rows


def _latency_cells(group: SweptGroup) -> list[str]:
    """Mean latency and speed-up of the models for which they were measured."""
    measured = [model.latency for model in group.models if model.latency is not None]
    if not measured:
        return ["-", "-"]
    seconds, speed_up = (
        statistics.fmean(found[key] for found in measured) for key in ("actual", "speed_up")
    )
    return [f"{1000 * seconds:.3g} ms", f"{speed_up:.2f}"]


def _with_spread(group: SweptGroup, test_set: str) -> str:
    """Mean and deviation of the metric, with the number of models where some lack the set."""
    count = len(group.values(test_set))
    if count == 0:
        return "-"
    text = f"{group.mean(test_set):.2f}"
    if count > 1:
        text += f" ± {group.deviation(test_set):.2f}"
    return text if count == len(group.models) else f"{text} ({count} of {len(group.models)})"


def notes(record: SweepRecord, given: Sequence[GivenPoint] = ()) -> str:
    """What the figures mean, and what of them was not measured here."""
    groups = [*record.unpruned.values(), *itertools.chain(*record.points.values())]
    text = (
        f"{record.metric} is better where {'higher' if record.higher_is_better else 'lower'}. "
        "MACs and parameters are those of the speech encoder, without the task's head. Where there "
        "are several seeds, figures are mean ± sample standard deviation."
    )
    settings = {
        latency_setting(model.latency)
        for group in groups
        for model in group.models
        if model.latency is not None
    }
    if settings:
        text += (
            " Latency is that of the speech encoder, speed-up against the unpruned encoder, which "
            f"took turns with it ({'; '.join(sorted(settings))})."
        )
    if len(settings) > 1:
        text += " Latencies that were not measured alike must not be compared."
    if any(len(g.values(name)) < len(g.models) for g in groups for name in record.test_sets):
        text += " Where not all models of a row were decoded on a set, it says on how many."
    if any(len(group.models) > 1 for group in record.unpruned.values()):
        text += (
            " The points were pruned from unpruned models with different results, on different "
            "machines or with different options; the unpruned model's are their mean."
        )
    text += f" {comparison_note(record)}"
    if given:
        listed = "; ".join(
            f"{point.name}, {point.gmacs:g} GMACs, {point.value:g} % on {point.test_set} "
            f"({point.source})"
            for point in given
        )
        text += f" Open markers are given, not measured here: {listed}."
    return text


def write_sweep_report(
    name: str, record: SweepRecord, directory: Path, given: Sequence[GivenPoint] = ()
) -> list[Path]:
    """Write ``RESULTS.md``, ``index.html`` and ``images/`` of a sweep.

    Args:
        name: of the sweep.
        record: its finished points.
        directory: where to write.
        given: points from elsewhere to draw beside them.

    Returns:
        The two files.
    """
    from espnet_hjprune.sweep import figures as sweep_figures

    sections = []
    for upstream in record.upstreams:
        images = directory / "images"
        beside = [point for point in given if point.upstream == upstream]
        path = images / f"{upstream}_methods.png"
        figures = [
            (
                f"{record.metric} against MACs, {upstream}",
                sweep_figures.plot_methods(record, upstream, path, beside),
            )
        ]
        for method in record.methods(upstream):
            groups = record.of_method(upstream, method)
            if len(groups) > 1 and has_separate_targets(groups):
                path = images / f"{upstream}_{method}_grid.png"
                figures.append(
                    (
                        f"Separate targets of {method}, {upstream}",
                        sweep_figures.plot_grid(record, upstream, method, path),
                    )
                )
            path = images / f"{upstream}_{method}_remaining.png"
            figures.append(
                (
                    f"What {method} leaves of {upstream}",
                    sweep_figures.plot_remaining(record, upstream, method, path),
                )
            )
        comparisons = comparison_table(record, upstream)
        sections.append(Section(upstream, sweep_table(record, upstream), comparisons, figures))
    title = f"Sweep {name}"
    shown = []
    for point in given:
        if point.upstream in record.upstreams and point.test_set in record.test_sets:
            shown.append(point)
        else:
            logging.warning(
                "%s is not drawn: no point of %s was decoded on %s",
                point.name,
                point.upstream,
                point.test_set,
            )
    markdown, page = directory / "RESULTS.md", directory / "index.html"
    write_text(markdown, render_markdown(title, sections, notes(record, shown), directory))
    write_text(page, render_html(title, sections, notes(record, shown)))
    return [markdown, page]


def render_markdown(title: str, sections: list[Section], note: str, directory: Path) -> str:
    """The report as Markdown; figures are linked relative to ``directory``."""
    parts = [f"# {title}\n"]
    for section in sections:
        parts.append(f"## {section.title}\n")
        parts.append(markdown_table(section.table))
        if section.comparisons:
            parts.append(f"### {DIFFERENCES}\n")
            parts.append(markdown_table(section.comparisons))
        for caption, path in section.images:
            parts.append(f"![{caption}]({path.relative_to(directory).as_posix()})\n")
    parts.append(note + "\n")
    return "\n".join(parts)


def render_html(title: str, sections: list[Section], note: str) -> str:
    """The report as one page that holds its figures."""
    body = [f"<h1>{html.escape(title)}</h1>"]
    for section in sections:
        body.append(f"<h2>{html.escape(section.title)}</h2>")
        body += _html_table(section.table)
        if section.comparisons:
            body.append(f"<h3>{DIFFERENCES}</h3>")
            body += _html_table(section.comparisons)
        for caption, path in section.images:
            data = base64.b64encode(path.read_bytes()).decode("ascii")
            body.append(
                f'<figure><img src="data:image/png;base64,{data}" alt="{html.escape(caption)}">'
                f"<figcaption>{html.escape(caption)}</figcaption></figure>"
            )
    body.append(f"<p>{html.escape(note)}</p>")
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{html.escape(title)}</title>\n<style>{PAGE_STYLE}</style>\n</head>\n<body>\n"
        + "\n".join(body)
        + "\n</body>\n</html>\n"
    )


def _html_table(table: list[list[str]]) -> list[str]:
    """Lines of a table, the first row of which is the header."""
    header, *rows = table
    cells = "".join(f"<th>{html.escape(cell)}</th>" for cell in header)
    lines = [f'<div class="wide"><table><thead><tr>{cells}</tr></thead><tbody>']
    for row in rows:
        cells = "".join(f"<td>{html.escape(cell)}</td>" for cell in row)
        lines.append(f"<tr>{cells}</tr>")
    return [*lines, "</tbody></table></div>"]
