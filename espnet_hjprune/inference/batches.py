"""Batches of utterances of similar length."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace

from espnet_hjprune.constants import SAMPLE_RATE
from espnet_hjprune.nn.config import EncoderConfig

# Batches of fixed shapes are computed on at most so much more than their audio.
WASTE = 0.25
# Frames of padded batches are multiples of this, as GPUs like them.
FRAMES = 8


@dataclass(frozen=True)
class Batch:
    """Utterances that are decoded together.

    Attributes:
        names: the utterances, the longest first.
        shape: rows and samples to pad to; ``None`` for as many as the utterances have.
    """

    names: tuple[str, ...]
    shape: tuple[int, int] | None = None


def make_batches(
    counts: Mapping[str, int], batch_seconds: float, longest: float = float("inf")
) -> list[Batch]:
    """Group utterances of similar length, the longest first.

    A batch has at most ``batch_seconds`` of audio with its padding, but at least one utterance.

    Args:
        counts: samples of every utterance.
        batch_seconds: the limit.
        longest: samples of an utterance that others may join; what has more is read in windows.
    """
    limit = batch_seconds * SAMPLE_RATE
    batches: list[list[str]] = []
    for name in _longest_first(counts):
        if (
            batches
            and counts[batches[-1][0]] <= longest
            and counts[batches[-1][0]] * (len(batches[-1]) + 1) <= limit
        ):
            batches[-1].append(name)
        else:
            batches.append([name])
    return [Batch(tuple(names)) for names in batches]


def make_padded_batches(
    counts: Mapping[str, int],
    batch_seconds: float,
    config: EncoderConfig,
    longest: float = float("inf"),
) -> list[Batch]:
    """Group utterances like :func:`make_batches`, into few shapes that recur.

    The longest utterance is padded to one of few lengths, each of which has its own number of
    rows. A batch gets utterances only as long as padding adds at most ``WASTE`` (25 %) to its
    audio, that is, at most 20 % of what is computed is padding. Where rows are left that would cost
    more, and where a shape would occur only once, the batch has no fixed shape.

    Args:
        counts: samples of every utterance.
        batch_seconds: audio in a batch at most, unless a single utterance has more.
        config: architecture of the encoder, whose frames are counted.
        longest: samples of an utterance that others may join; what has more is alone, as it is.
    """
    alone = [Batch((name,)) for name in _longest_first(counts) if counts[name] > longest]
    counts = {name: count for name, count in counts.items() if count <= longest}
    limit = batch_seconds * SAMPLE_RATE
    groups: list[list[str]] = []
    shapes: list[tuple[int, int]] = []
    for name in _longest_first(counts):
        if shapes and len(groups[-1]) < shapes[-1][0] and _is_near(counts[name], shapes[-1][1]):
            groups[-1].append(name)
        else:
            samples = padded_length(counts[name], config)
            groups.append([name])
            shapes.append((max(1, int(limit // samples)), samples))
    batches = []
    for names, (rows, samples) in zip(groups, shapes, strict=True):
        fits = _is_near(sum(counts[name] for name in names), rows * samples)
        batches.append(Batch(tuple(names), (rows, samples) if fits else None))
    times = Counter(batch.shape for batch in batches)
    return alone + [
        batch if times[batch.shape] > 1 else replace(batch, shape=None) for batch in batches
    ]


def padded_length(samples: int, config: EncoderConfig) -> int:
    """Samples that make the next of few numbers of frames.

    These are the multiples of ``FRAMES``, and from 16 times that on eight for every doubling.
    """
    rest = samples - config.receptive_field
    frames = 1 - min(0, -rest // config.downsampling)
    step = max(FRAMES, 1 << frames.bit_length() >> 4)
    frames = -(-frames // step) * step
    return config.receptive_field + (frames - 1) * config.downsampling


def _longest_first(counts: Mapping[str, int]) -> list[str]:
    return sorted(counts, key=lambda name: (-counts[name], name))


def _is_near(samples: int, padded: int) -> bool:
    """Whether padding adds little to so many samples."""
    return padded <= (1 + WASTE) * samples
