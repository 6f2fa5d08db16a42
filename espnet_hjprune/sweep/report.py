"""Tables, figures and the page of a sweep, from its results on disk."""

from __future__ import annotations

import base64
import html
import itertools
from dataclasses import dataclass
from pathlib import Path

from espnet_hjprune.atomic import write_text
from espnet_hjprune.markdown import markdown_table
from espnet_hjprune.sweep.record import SweepRecord, SweptGroup, has_separate_targets

PAGE_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #1f2933; margin: 2rem auto; max-width: 72rem;
       padding: 0 1rem; }
h1, h2 { line-height: 1.2; }
figure { margin: 1.5rem 0; }
.wide { overflow-x: auto; }
figcaption { color: #66717d; }
img { max-width: 100%; height: auto; display: block; margin: 1rem 0; }
table { border-collapse: collapse; margin: 1rem 0; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .8rem; border-bottom: 1px solid #e4e8ed; text-align: right; }
th:first-child, td:first-child, th:nth-child(2), td:nth-child(2) { text-align: left; }
p { color: #66717d; }
"""


@dataclass(frozen=True)
class Section:
    """What is shown of one upstream: table rows, the first being the header, and figures."""

    title: str
    table: list[list[str]]
    images: list[tuple[str, Path]]


def sweep_table(record: SweepRecord, upstream: str) -> list[list[str]]:
    """Rows of the table of an upstream: the unpruned model, then methods by rising target."""
    sets = record.test_sets
    header = ["method", "target", "seeds", f"GMACs ({record.seconds:g} s)", "MACs removed"]
    rows = [[*header, "parameters", *(f"{name} {record.metric} (%)" for name in sets)]]
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
                *(_with_spread(group, name) for name in sets),
            ]
        )
    return rows


def _with_spread(group: SweptGroup, test_set: str) -> str:
    """Mean and deviation of the metric, with the number of models where some lack the set."""
    count = len(group.values(test_set))
    if count == 0:
        return "-"
    text = f"{group.mean(test_set):.2f}"
    if count > 1:
        text += f" ± {group.deviation(test_set):.2f}"
    return text if count == len(group.models) else f"{text} ({count} of {len(group.models)})"


def notes(record: SweepRecord) -> str:
    """What the figures mean."""
    text = (
        f"{record.metric} is better where {'higher' if record.higher_is_better else 'lower'}. "
        "MACs and parameters are those of the speech encoder, without the task's head. Where there "
        "are several seeds, figures are mean ± sample standard deviation."
    )
    groups = [*record.unpruned.values(), *itertools.chain(*record.points.values())]
    if any(len(g.values(name)) < len(g.models) for g in groups for name in record.test_sets):
        text += " Where not all models of a row were decoded on a set, it says on how many."
    if any(len(group.models) > 1 for group in record.unpruned.values()):
        text += (
            " The points were pruned from unpruned models with different results, on different "
            "machines or with different options; the unpruned model's are their mean."
        )
    return text


def write_sweep_report(name: str, record: SweepRecord, directory: Path) -> list[Path]:
    """Write ``RESULTS.md``, ``index.html`` and ``images/`` of a sweep.

    Args:
        name: of the sweep.
        record: its finished points.
        directory: where to write.

    Returns:
        The two files.
    """
    from espnet_hjprune.sweep import figures as sweep_figures

    sections = []
    for upstream in record.upstreams:
        images = directory / "images"
        figures = [
            (
                f"{record.metric} against MACs, {upstream}",
                sweep_figures.plot_methods(record, upstream, images / f"{upstream}_methods.png"),
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
        sections.append(Section(upstream, sweep_table(record, upstream), figures))
    title = f"Sweep {name}"
    markdown, page = directory / "RESULTS.md", directory / "index.html"
    write_text(markdown, render_markdown(title, sections, notes(record), directory))
    write_text(page, render_html(title, sections, notes(record)))
    return [markdown, page]


def render_markdown(title: str, sections: list[Section], note: str, directory: Path) -> str:
    """The report as Markdown; figures are linked relative to ``directory``."""
    parts = [f"# {title}\n"]
    for section in sections:
        parts.append(f"## {section.title}\n")
        parts.append(markdown_table(section.table))
        for caption, path in section.images:
            parts.append(f"![{caption}]({path.relative_to(directory).as_posix()})\n")
    parts.append(note + "\n")
    return "\n".join(parts)


def render_html(title: str, sections: list[Section], note: str) -> str:
    """The report as one page that holds its figures."""
    body = [f"<h1>{html.escape(title)}</h1>"]
    for section in sections:
        body.append(f"<h2>{html.escape(section.title)}</h2>")
        header, *rows = section.table
        cells = "".join(f"<th>{html.escape(cell)}</th>" for cell in header)
        body.append(f'<div class="wide"><table><thead><tr>{cells}</tr></thead><tbody>')
        for row in rows:
            cells = "".join(f"<td>{html.escape(cell)}</td>" for cell in row)
            body.append(f"<tr>{cells}</tr>")
        body.append("</tbody></table></div>")
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
