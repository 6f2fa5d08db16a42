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
        Boolean mask ``(rows, size)``, true where a position is masked. It is made on the device of
        ``lengths`` without a wait for it.
    """
    width = lengths.clamp(max=span)
    starts = lengths - width + 1
    share = prob * lengths / width.clamp(min=1)
    count = (share + torch.rand(len(lengths), device=lengths.device)).long()
    count = torch.minimum(count.clamp(min=min_spans), starts)
    positions = torch.arange(size, device=lengths.device)
    # The positions with the lowest numbers are drawn; those where no span fits come last.
    drawn = torch.rand(len(lengths), size, device=lengths.device)
    drawn = drawn.masked_fill(positions >= starts.unsqueeze(1), 2.0)
    is_start = drawn.argsort(1).argsort(1) < count.unsqueeze(1)
    # A position is covered if more spans have begun than `width` positions earlier.
    begun = is_start.long().cumsum(1)
    earlier = positions - width.unsqueeze(1)
    before = begun.gather(1, earlier.clamp(min=0)).masked_fill(earlier < 0, 0)
    return begun > before
