"""RESULTS.md: environment, error tables in ESPnet's form, and this project's table."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from espnet_hjprune.errors import HJPruneError
from espnet_hjprune.markdown import markdown_table
from espnet_hjprune.scoring.alignment import Alignments, read_alignments
from espnet_hjprune.scoring.confusion import (
    Confusion,
    classification_table,
    confused_table,
    read_confusion,
)
from espnet_hjprune.scoring.decoding_time import DecodingTime, read_decoding_time
from espnet_hjprune.scoring.sclite import SCORE_TYPES, ErrorCounts, parse_result
from espnet_hjprune.target import Target

_REPOSITORY = Path(__file__).resolve().parents[2]
_ERROR_COLUMNS = ("dataset", "Snt", "Wrd", "Corr", "Sub", "Del", "Ins", "Err", "S.Err")
CRITERION_NAMES = {
    "macs": "HJ-Pruning-MAC",
    "size": "HJ-Pruning-Size",
    "sepsize": "HJ-Pruning-SepSize",
    "latency": "HJ-Pruning-Latency",
}


# What a constraint counts.
KIND_NAMES = {"macs": "MACs", "params": "parameters", "seconds": "seconds"}
Rows = list[list[str]]


@dataclass(frozen=True)
class Metric:
    """A figure of merit made from the word errors of one set, in percent."""

    name: str
    higher_is_better: bool
    value: Callable[[ErrorCounts], float]


METRICS = {
    "wer": Metric("WER", False, lambda counts: counts.error_rate),
    # Exact for transcripts of one word each, such as intents.
    "accuracy": Metric("accuracy", True, lambda counts: 100.0 - counts.error_rate),
}


@dataclass(frozen=True)
class DecodedModel:
    """A decoded model with its cost and its quality.

    Attributes:
        name: what it is called in tables and figures.
        exp_dir: its experiment's directory.
        decode_tag: the directory below it that holds the decoded sets.
        macs: multiply-accumulates of the speech encoder, without the task's head.
        params: parameters of the speech encoder.
        macs_removed: share of the unpruned model's MACs; ``None`` where there is no such model.
        scores: counts of errors by type (``wer``, ``cer``, ``ter``) and set.
        alignments: words of every utterance by set.
        decoding: computation and audio of all sets together.
        confusions: labels by set; empty unless the task is classification.
        latency: seconds of the speech encoder; ``None`` where they were not measured.
    """

    name: str
    exp_dir: Path
    decode_tag: str
    macs: float
    params: float
    macs_removed: float | None
    scores: dict[str, dict[str, ErrorCounts]]
    alignments: dict[str, Alignments]
    decoding: DecodingTime
    confusions: dict[str, Confusion]
    latency: float | None = None


@dataclass(frozen=True)
class Image:
    """A figure to show in RESULTS.md."""

    caption: str
    path: Path


def read_summary(path: str | Path) -> dict[str, Any]:
    """Read the ``summary.json`` of a compaction.

    Raises:
        HJPruneError: the file is missing, is no JSON object, or lacks a part the report needs.
    """
    try:
        summary = json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise HJPruneError(f"{path} does not exist; run stage 5 (compaction) first") from None
    except ValueError as error:
        raise HJPruneError(f"{path} is no JSON file ({error}); rerun stage 5") from None
    for section, keys in {
        "dense": ("macs", "params"),
        "actual": ("macs", "params"),
        "layers": ("conv", "head", "ffn", "hidden", "dense"),
    }.items():
        part = summary.get(section) if isinstance(summary, dict) else None
        lacking = [key for key in keys if key not in (part or {})]
        if lacking:
            raise HJPruneError(f"{path} lacks '{section}.{lacking[0]}'; rerun stage 5")
    if "constraints" not in summary:
        raise HJPruneError(f"{path} lacks 'constraints'; rerun stage 5")
    return summary


def method_name(summary: Mapping[str, Any]) -> str:
    """Return the name of the pruning method with its target, such as ``HJ-Pruning-MAC 40 %``.

    Raises:
        HJPruneError: ``target_sparsity`` in the summary is no target.
    """
    if summary.get("units") == []:
        return "Unpruned, trained on"
    criterion = str(summary.get("criterion", ""))
    name = CRITERION_NAMES.get(criterion, criterion or "pruning")
    if criterion == "size" and "conv" not in summary.get("units", ["conv"]):
        name = "Transformer only"
    if summary.get("scores"):
        name = f"{str(summary['scores']).capitalize()} scores"
    target = summary.get("target_sparsity")
    if target is None:
        return name
    shares = Target.parse(target, "target_sparsity of the summary").by_name()
    return f"{name} " + ", ".join(f"{part} {100 * t:g} %".lstrip() for part, t in shares.items())


def read_model(
    name: str,
    exp_dir: str | Path,
    decode_tag: str,
    test_sets: Sequence[str],
    summary: dict[str, Any],
    size: str,
    references: Mapping[str, Path] | None = None,
) -> DecodedModel:
    """Collect what stage 7 left of one model.

    Args:
        name: the name to show.
        exp_dir: the experiment's directory.
        decode_tag: the directory below it that holds the decoded sets.
        test_sets: the decoded sets; each must have word errors, the rest is optional.
        summary: the compaction's summary.
        size: the entry of the summary with this model's size, ``dense`` or ``actual``.
        references: for classification, the true labels of every set, ``utterance label`` lines.

    Raises:
        HJPruneError: a set has no word errors or no texts, or sclite's count of wrong labels is
            not the one that comes from comparing label by label.
    """
    exp_dir = Path(exp_dir)
    decoded = exp_dir / decode_tag
    scores: dict[str, dict[str, ErrorCounts]] = {}
    decoding = DecodingTime()
    for test_set in test_sets:
        for score_type in SCORE_TYPES:
            result = decoded / test_set / f"score_{score_type}" / "result.txt"
            if score_type == "wer" or result.is_file():
                scores.setdefault(score_type, {})[test_set] = parse_result(result)
        decoding += read_decoding_time(decoded / test_set)
    macs, params = (float(summary[size][key]) for key in ("macs", "params"))
    removed = 1.0 - macs / float(summary["dense"]["macs"])
    confusions = {
        test_set: _recount(reference, decoded / test_set, scores["wer"][test_set])
        for test_set, reference in (references or {}).items()
    }
    alignments = {
        test_set: read_alignments(decoded / test_set / "score_wer") for test_set in test_sets
    }
    return DecodedModel(
        name,
        exp_dir,
        decode_tag,
        macs,
        params,
        removed,
        scores,
        alignments,
        decoding,
        confusions,
        latency=(summary.get("latency") or {}).get(size),
    )


def _recount(reference: Path, decoded: Path, counts: ErrorCounts) -> Confusion:
    """Compare labels one by one and make sure that sclite counted the same."""
    confusion = read_confusion(reference, decoded / "text")
    wrong = confusion.total - confusion.correct
    if (counts.sentences, counts.errors) != (confusion.total, wrong):
        raise HJPruneError(
            f"sclite counts {counts.errors} errors in {counts.sentences} utterances of {decoded}, "
            f"but {wrong} of {confusion.total} labels in {decoded / 'text'} are wrong; remove "
            f"{decoded / '.done'} and rerun stage 7"
        )
    return confusion


def environment() -> list[tuple[str, str]]:
    """Return names and values of what the results depend on: date, versions, git commit."""

    def package(name: str) -> str:
        try:
            return f"{name} {version(name)}"
        except PackageNotFoundError:
            return "not installed"

    def git(*arguments: str) -> str:
        try:
            command = ["git", "-C", str(_REPOSITORY), *arguments]
            done = subprocess.run(command, capture_output=True, text=True)
        except FileNotFoundError:
            return "unknown"
        return done.stdout.strip() if done.returncode == 0 else "unknown"

    return [
        ("date", datetime.now().astimezone().strftime("%a %b %d %H:%M:%S %Z %Y")),
        ("python version", sys.version.replace("\n", " ")),
        ("espnet version", package("espnet")),
        ("pytorch version", package("torch")),
        ("Git hash", git("rev-parse", "HEAD")),
        ("Commit date", git("log", "-1", "--format=%ad")),
    ]


def environment_section() -> str:
    """The section of RESULTS.md on what the results depend on."""
    return "## Environments\n\n" + "".join(
        f"- {name}: `{value}`\n" for name, value in environment()
    )


def image_links(images: Sequence[Image], output: Path) -> list[str]:
    """Markdown of figures; their paths are relative to ``output``'s directory."""
    links = []
    for image in images:
        path = Path(_relative(image.path, output.parent)).as_posix()
        links.append(f"![{image.caption}]({path.replace(' ', '%20')})\n")
    return links


def plain_table(rows: Sequence[Sequence[str]]) -> str:
    """Return an aligned table for a terminal: the first column to the left, the rest right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
    lines.insert(1, "  ".join("-" * width for width in widths))
    return "\n".join(lines) + "\n"


def error_table(scores: dict[str, ErrorCounts], decode_tag: str) -> list[list[str]]:
    """Return the rows of ESPnet's error table, one a set, in percent of the reference tokens."""
    rows = [list(_ERROR_COLUMNS)]
    for test_set, c in scores.items():
        parts = (c.correct, c.substitutions, c.deletions, c.insertions, c.errors)
        rows.append(
            [f"{decode_tag}/{test_set}", str(c.sentences), str(c.words)]
            + [f"{c.percent(part):.1f}" for part in parts]
            + [f"{c.sentence_error_rate:.1f}"]
        )
    return rows


def cost_cells(macs: float, removed: float | None, params: float) -> list[str]:
    """The cells for MACs, the share of MACs removed (0 to 1) if it is known, and parameters."""
    return [
        # Three digits for full-size models and for very small ones alike.
        f"{macs / 1e9:.3g}" if macs < 1e10 else f"{macs / 1e9:.1f}",
        "-" if removed is None else f"{100 * removed:.1f} %",
        f"{params / 1e6:.2f} M",
    ]


def latency_cell(seconds: float | None) -> str:
    """The cell for a latency in milliseconds."""
    return "-" if seconds is None else f"{1000 * seconds:.3g}"


def project_table(models: Sequence[DecodedModel], metric: Metric, seconds: float) -> Rows:
    """Return the rows of the table that sets cost against quality, one a model.

    ``seconds`` is the length of audio that the MACs are counted for.
    """
    header = ["model", f"GMACs ({seconds:g} s)", "MACs removed", "parameters"]
    header += ["latency (ms)", "RTF"]
    rows = [header + [f"{test_set} {metric.name} (%)" for test_set in models[0].scores["wer"]]]
    for model in models:
        factor = model.decoding.real_time_factor
        rows.append(
            [
                model.name,
                *cost_cells(model.macs, model.macs_removed, model.params),
                latency_cell(model.latency),
                "n/a" if factor is None else f"{factor:.3f}",
            ]
            + [f"{metric.value(counts):.2f}" for counts in model.scores["wer"].values()]
        )
    return rows


def target_table(names: Sequence[str], summaries: Sequence[Mapping[str, Any]]) -> Rows:
    """Return the rows of the table that sets targets beside what gates and compaction remove.

    Args:
        names: the pruned models.
        summaries: what ``summary.json`` of each compaction holds.
    """
    rows = [["model", "of", "target", "expected by the gates", "after compaction"]]
    for name, summary in zip(names, summaries, strict=True):
        for constraint in summary["constraints"]:
            sparsity = constraint["sparsity"]
            shares = (constraint["target_sparsity"], sparsity["expected"], sparsity["actual"])
            measured = f"{KIND_NAMES[constraint['kind']]} {constraint['name']}".rstrip()
            rows.append([name, measured, *(f"{100 * share:.1f} %" for share in shares)])
    return rows


def latency_note(summaries: Sequence[Mapping[str, Any]]) -> str:
    """Return the sentence that says how latencies were measured, with the speed-ups."""
    measured = [summary["latency"] for summary in summaries if summary.get("latency")]
    if not measured:
        return "Latency: not measured."
    settings = "; ".join(dict.fromkeys(map(latency_setting, measured)))
    ratios = ", ".join(f"{found['speed_up']:.2f}" for found in measured)
    return (
        f"Latency: the speech encoder with {settings}, median of passes that take turns with those "
        f"of the unpruned encoder; speed-up {ratios}."
    )


def latency_setting(latency: Mapping[str, Any]) -> str:
    """What a latency was measured with: audio, type, device and threads."""
    machine = latency["machine"]
    return (
        f"{latency['batch']} x {latency['seconds']:g} s, {machine['dtype']}, on "
        f"{machine['device']} with {machine['threads']} CPU threads"
    )


def timing_note(models: Sequence[DecodedModel]) -> str:
    """Return the sentence that says how the real-time factors were measured."""
    if not any(model.decoding.utterances for model in models):
        return "RTF: not measured, the decoding left no logs with time stamps."
    counts = ", ".join(f"{m.decoding.utterances} ({m.name})" for m in models)
    return (
        "RTF: time of encoder and search over the duration of the audio, without loading the "
        "model; in batches or, with `--decoder espnet`, one utterance at a time (from the log line "
        f"`speech length` to `best hypo`); utterances timed: {counts}."
    )


def render(
    title: str,
    models: Sequence[DecodedModel],
    table: Sequence[Sequence[str]],
    targets: Sequence[Sequence[str]],
    timing: Sequence[str],
    comparison: str,
    images: Sequence[Image],
    output: Path,
) -> str:
    """Return the text of RESULTS.md; paths of figures are relative to ``output``'s directory.

    ``table`` and ``targets`` are those of :func:`project_table` and :func:`target_table`,
    ``timing`` the notes on how times were measured, ``comparison`` is the section of
    :func:`.comparison_section`.
    """
    parts = [f"# {title}\n", environment_section()]
    for model in models:
        parts.append(f"## {model.name}\n\n`{model.exp_dir}`\n")
        for score_type, scores in model.scores.items():
            parts.append(f"### {score_type.upper()}\n")
            parts.append(markdown_table(error_table(scores, model.decode_tag)))
        if model.confusions:
            parts.append("### Labels\n")
            parts.append(markdown_table(classification_table(model.confusions)))
        for test_set, confusion in model.confusions.items():
            if confusion.most_confused():
                parts.append(f"Most confused pairs of labels in {test_set}:\n")
                parts.append(markdown_table(confused_table(confusion)))
    parts.append("## Cost and quality\n")
    parts.append(markdown_table(table))
    parts.append("MACs and parameters are those of the speech encoder, without the task's head.\n")
    parts += [f"{note}\n" for note in timing]
    if len(targets) > 1:
        parts.append("Shares removed; compaction makes up for what the gates lack:\n")
        parts.append(markdown_table(targets))
    parts.append(comparison)
    return "\n".join([*parts, *image_links(images, output)])


def _relative(path: Path, start: Path) -> str:
    return os.path.relpath(path.resolve(), start.resolve())
