"""The best path of CTC: the most likely token of every frame, repetitions and blanks removed.

What other runtimes call greedy search (Graves et al. 2006, Section 3.2). It is the best sequence of
frames' labels, not of tokens, so that :mod:`.greedy` can find other words.
"""

from __future__ import annotations

import torch

from espnet_hjprune.inference.greedy import BLANK, Hypothesis


@torch.no_grad()
def best_path_search(log_probs: torch.Tensor, frames: torch.Tensor) -> list[Hypothesis]:
    """Take the most likely token of every frame.

    Args:
        log_probs: ``(batch, time, token)``; token 0 is the blank.
        frames: ``(batch,)`` valid frames.

    Returns:
        A hypothesis for every utterance; its score is that of the path.
    """
    scores, labels = log_probs.max(-1)
    found = []
    for row, count in enumerate(frames.tolist()):
        tokens = labels[row, :count].unique_consecutive()
        score = scores[row, :count].sum(dtype=torch.float64)
        found.append(Hypothesis(tokens[tokens != BLANK].tolist(), float(score)))
    return found
