"""Span masking of features during fine-tuning, after wav2vec 2.0 and SpecAugment."""

from __future__ import annotations

import torch


def sample_spans(
    lengths: torch.Tensor, size: int, prob: float, span: int, min_spans: int
) -> torch.Tensor:
    """Draw spans of ``span`` positions per row.

    The masking of wav2vec 2.0 (Baevski et al. 2020, Section 3.1), which it takes
    from SpecAugment (Park et al. 2019) and uses in fine-tuning on time steps and on features.

    The number of spans is ``prob * length / span``, rounded up or down at random, and at least
    ``min_spans``; starts are drawn without replacement and spans may overlap.

    Args:
        lengths: ``(rows,)``, valid positions of every row.
        size: positions of the returned mask.
        prob: expected share of positions covered if spans did not overlap.
        span: positions of one span, cut to the row's length.
        min_spans: fewest spans of a row.

    Returns:
        Boolean mask ``(rows, size)`` on the CPU, true where a position is masked.
    """
    mask = torch.zeros(len(lengths), size, dtype=torch.bool)
    for row, length in enumerate(lengths.tolist()):
        width = min(span, length)
        starts = length - width + 1
        count = int(prob * length / max(width, 1) + torch.rand(()).item())
        count = min(max(count, min_spans), starts)
        first = torch.randperm(starts)[:count]
        covered = (first.unsqueeze(1) + torch.arange(width)).flatten()
        mask[row, covered] = True
    return mask
