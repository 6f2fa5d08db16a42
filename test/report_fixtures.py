"""Experiment directories as the stages leave them: sclite results, logs, summary of compaction."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path

from espnet_hjprune.scoring.sclite import score_set, scoring_tokenizer
from espnet_hjprune.target import Target

DENSE = {"conv": [512] * 7, "head": [12] * 12, "ffn": [3072] * 12, "hidden": 768}
KEPT = {
    "conv": [207, 251, 332, 398, 447, 489, 501],
    "head": [9, 8, 8, 7, 7, 8, 7, 6, 5, 6, 4, 0],
    "ffn": [1893, 1744, 1802, 1655, 1711, 1598, 1503, 1420, 1377, 1066, 842, 1204],
    "hidden": 704,
}
WORDS = ["SET", "BIN", "LAY", "PLACE", "RED", "BLUE", "GREEN", "AT", "BY", "IN", "NOW", "SOON"]


def write_summary(path: Path, criterion: str = "macs", target: object = 0.4) -> dict:
    """Write a ``summary.json`` of a pruned wav2vec2-base."""
    summary = {
        "criterion": criterion,
        "target_sparsity": target,
        "units": ["conv", "head", "ffn", "hidden"],
        "seconds": 10.0,
        "dense": {"macs": 74066523136, "params": 94371712},
        "target": {"macs": 44439913881},
        "expected": {"macs": 44501002000, "params": 59100200},
        "actual": {"macs": 44438102016, "params": 59087360},
        "sparsity": {"expected": 0.3992, "actual": 0.4},
        "constraints": [
            {
                "name": name,
                "kind": "macs" if criterion == "macs" else "params",
                "target_sparsity": share,
                "sparsity": {"expected": share - 0.0312, "actual": share + 0.0001},
            }
            for name, share in Target.parse(target).by_name().items()
        ],
        "layers": {**KEPT, "dense": DENSE},
        "latency": {
            "machine": {"device": "a CPU", "threads": 2, "dtype": "float32"},
            "seconds": 10.0,
            "batch": 1,
            "dense": 0.9123,
            "actual": 0.5101,
            "speed_up": 1.79,
        },
        "max_abs_diff": 3e-6,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(summary), encoding="utf-8")
    return summary


def stamp(now: datetime) -> str:
    """Return a time as Python's logging prints it."""
    return now.strftime("%Y-%m-%d %H:%M:%S,") + f"{now.microsecond // 1000:03d}"


def training_log_lines(
    epochs: Sequence[int], max_epoch: int = 12, suffixes: Sequence[str] = ("",), n_batches: int = 63
) -> list[str]:
    """Return the lines of a pruning run, with messages made by ESPnet's own reporter."""
    from espnet2.train.reporter import Reporter

    rng = random.Random(epochs[0])
    now = datetime(2024, 1, 1, 12) + timedelta(minutes=epochs[0])
    lines: list[str] = []

    def log(message: str) -> None:
        nonlocal now
        now += timedelta(seconds=2.5)
        lines.append(f"[host] {stamp(now)} (trainer:394) INFO: {message}\n")

    reporter = Reporter()
    for epoch in epochs:
        log(f"{epoch}/{max_epoch}epoch started")
        reporter.set_epoch(epoch)
        with reporter.observe("train") as observed:
            for batch in range(1, n_batches + 1):
                time = epoch - 1 + batch / n_batches
                stats = {"loss": 60 * math.exp(-time / 4) + rng.random(), "macs": 7.4e10}
                for i, suffix in enumerate(suffixes):
                    target = (0.4 - 0.15 * i) * min(1.0, time / 3)
                    swing = 0.12 * math.exp(-time / 3) * math.sin(time * 2.2)
                    stats[f"target_sparsity{suffix}"] = target
                    stats[f"sparsity{suffix}"] = max(0.0, target - swing)
                    stats[f"lambda1{suffix}"] = -1.2 * (1 - math.exp(-time / 2)) - swing
                    stats[f"lambda2{suffix}"] = 0.4 * (1 - math.exp(-time))
                observed.register(stats)
                observed.register({"train_time": 0.3})
                observed.next()
                if batch % 10 == 0:
                    log(observed.log_message(-10))
        with reporter.observe("valid") as observed:
            cer = 0.05 + 0.3 * math.exp(-epoch / 3)
            observed.register({"loss": 55 * math.exp(-epoch / 4) + 4, "cer_ctc": cer, "wer": None})
            observed.next()
        log(reporter.log_message())
    return lines


def decoding_log_lines(seconds: Sequence[float], factor: float) -> list[str]:
    """Return the lines of ``espnet2.bin.asr_inference`` for utterances of these durations."""
    now = datetime(2024, 1, 1, 23, 59, 50)
    lines = [f"{stamp(now)} (asr_inference:400) INFO: Decoding device=cpu, dtype=float32\n"]
    for duration in seconds:
        samples = int(16000 * duration)
        lines.append(f"{stamp(now)} (asr_inference:530) INFO: speech length: {samples}\n")
        now += timedelta(seconds=duration * factor)
        lines.append(f"{stamp(now)} (beam_search:479) INFO: total log probability: -3.21\n")
        lines.append(f"{stamp(now)} (beam_search:484) INFO: best hypo: SET<space>RED\n\n")
        now += timedelta(seconds=0.7)
    return lines


def write_decoded(
    exp_dir: Path, sets: Sequence[str], error_rate: float, factor: float = 0.2, n: int = 40
) -> None:
    """Write decoded and really scored sets below ``exp_dir/decode_asr``."""
    for number, name in enumerate(sets):
        # The references do not depend on the error rate.
        rng = random.Random(7 + number)
        directory = exp_dir / "decode_asr" / name
        reference = {f"s{i % 4}-{i:04d}": " ".join(rng.choices(WORDS, k=6)) for i in range(n)}
        hypothesis = {
            utterance: " ".join(
                rng.choice(WORDS) if rng.random() < error_rate * (1 + number) else word
                for word in text.split()
            )
            for utterance, text in reference.items()
        }
        utt2spk = {utterance: utterance.split("-")[0] for utterance in reference}
        for score_type in ("wer", "cer"):
            score_set(
                reference,
                hypothesis,
                utt2spk,
                scoring_tokenizer(score_type),
                directory / f"score_{score_type}",
            )
        (directory / "logdir").mkdir()
        for job in (1, 2):
            log = directory / "logdir" / f"asr_inference.{job}.log"
            log.write_text("".join(decoding_log_lines([2.0, 3.5, 1.25], factor)))
