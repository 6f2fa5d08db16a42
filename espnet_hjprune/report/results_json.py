"""results.json: the figures of RESULTS.md for programs to read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from espnet_hjprune.report.results_md import DecodedModel, Metric, environment
from espnet_hjprune.scoring.alignment import Alignments

METHOD_KEYS = ("criterion", "units", "target_sparsity", "constraints", "layers", "latency")


def result_record(
    title: str,
    models: Sequence[DecodedModel],
    summaries: Sequence[Mapping[str, Any]],
    metric: Metric,
    seconds: float,
) -> dict[str, Any]:
    """Collect the figures of decoded models.

    Args:
        title: headline.
        models: the unpruned model, then one for each summary.
        summaries: what ``summary.json`` of each compaction holds.
        metric: figure of merit.
        seconds: of audio that MACs are counted for.

    Returns:
        ``metric``, ``environment``, ``utterances`` with the ids of every set as one text and,
        under ``models``, for each of them cost, counts of errors by type and set, ``values`` of
        the metric by set, ``alignments`` by set and, unless it is the unpruned model, method and
        sizes of the layers. Alignments are one text with a word for each utterance, in which each
        letter is a word: ``C`` is right, ``S`` substituted, ``D`` deleted, ``I`` inserted, and
        ``-`` stands for an utterance without words. So all letters but ``I`` are the words of the
        reference, and all but ``C`` the errors.
    """
    entries = []
    for model, summary in zip(models, [None, *summaries], strict=True):
        entry: dict[str, Any] = {
            "name": model.name,
            "macs": model.macs,
            "params": model.params,
            "macs_removed": model.macs_removed,
            "latency_seconds": model.latency,
            "real_time_factor": model.decoding.real_time_factor,
            "scores": {
                kind: {name: asdict(counts) for name, counts in scores.items()}
                for kind, scores in model.scores.items()
            },
            "values": {name: metric.value(counts) for name, counts in model.scores["wer"].items()},
            "alignments": {name: one.to_text() for name, one in model.alignments.items()},
        }
        if summary is not None:
            entry |= {key: summary[key] for key in METHOD_KEYS if key in summary}
        entries.append(entry)
    return {
        "title": title,
        "seconds": seconds,
        "metric": {"name": metric.name, "higher_is_better": metric.higher_is_better},
        "environment": dict(environment()),
        "utterances": {
            name: " ".join(one.utterances) for name, one in models[0].alignments.items()
        },
        "models": entries,
    }


def recorded_alignments(
    record: Mapping[str, Any], entry: Mapping[str, Any]
) -> dict[str, Alignments]:
    """Read the alignments of an entry of ``models`` by set; none in a record from before them.

    Raises:
        HJPruneError: they are no alignments.
    """
    return {
        name: Alignments.from_text(record["utterances"][name], letters)
        for name, letters in entry.get("alignments", {}).items()
    }
