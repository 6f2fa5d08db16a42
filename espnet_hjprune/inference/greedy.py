"""Greedy CTC prefix search over a batch: what a beam search with one hypothesis finds."""

from __future__ import annotations

from dataclasses import dataclass

import torch

BLANK = 0
# The best extension of a prefix has at least 1 / vocabulary of its probability.
NEGLIGIBLE = 1e-30


@dataclass(frozen=True)
class Hypothesis:
    """Token numbers of an utterance, without ``<sos/eos>``, and their log probability.

    ``words`` is what a search with a lexicon found; otherwise the tokens make the text.
    """

    tokens: list[int]
    score: float
    words: list[str] | None = None


@dataclass
class _Prefix:
    """Log probabilities that frames 0 to t give exactly the prefix, each ``(batch, time)``.

    ``label`` is of paths that end in the last token, ``blank`` of those that end in a blank.
    """

    label: torch.Tensor
    blank: torch.Tensor


@torch.no_grad()
def greedy_search(log_probs: torch.Tensor, frames: torch.Tensor) -> list[Hypothesis]:
    """Extend every utterance's prefix by the token with the highest prefix probability.

    The probability of a prefix ``g`` followed by token ``c`` is
    ``psi(g c) = sum_t phi_{t-1}(g) p_t(c)`` (Graves 2008; Watanabe et al. 2017, algorithm 2), with
    ``phi`` that of ``g`` at frame t - 1, ending in a blank where ``c`` repeats the last token. An
    utterance ends where the probability of ``g`` itself is higher, as in ESPnet's beam search with
    ``ctc_weight`` 1 and ``beam_size`` 1. All frames are taken at once: ``phi`` of the longer prefix
    is a linear recurrence, whose solution is a cumulative sum.

    Args:
        log_probs: ``(batch, time, token)``; token 0 is the blank, the last one ``<sos/eos>``.
        frames: ``(batch,)`` valid frames.
    """
    batch, time, vocabulary = log_probs.shape
    rows = torch.arange(batch, device=log_probs.device)
    padding = torch.arange(time, device=log_probs.device) >= frames.unsqueeze(1)
    # Behind its end an utterance only stays what it is.
    log_probs = log_probs.double().masked_fill(padding.unsqueeze(-1), -1e10)
    blank = log_probs[..., BLANK].masked_fill(padding, 0.0)
    probs = log_probs.exp()
    never = log_probs.new_full((batch, time), float("-inf"))
    prefix = _Prefix(never, blank.cumsum(1))
    last = torch.full_like(rows, -1)
    tokens: list[list[int]] = [[] for _ in range(batch)]
    scores = [0.0] * batch
    running = torch.ones_like(rows, dtype=torch.bool)
    for step in range(time + 1):
        empty = 0.0 if step == 0 else float("-inf")
        either = torch.logaddexp(prefix.label, prefix.blank)
        after_any, after_blank = (_shift(x, empty) for x in (either, prefix.blank))
        peak = after_any.amax(1, keepdim=True)
        peak = peak.masked_fill(peak.isneginf(), 0.0)
        weights = (after_any - peak).exp()
        # Few frames count: those where the paths of the prefix are at its end.
        used = (weights > NEGLIGIBLE).any(0).nonzero().flatten()
        window = slice(int(used[0]), int(used[-1]) + 1) if len(used) else slice(0, 1)
        psi = torch.bmm(weights[:, None, window], probs[:, window]).squeeze(1).log() + peak
        if step > 0:
            repeated = log_probs[rows, :, last]
            psi[rows, last] = torch.logsumexp(after_blank + repeated, 1)
        psi[:, BLANK] = float("-inf")
        exact = either[rows, frames - 1]
        psi[:, -1] = exact
        best = psi.argmax(1)
        ended = running & ((best == vocabulary - 1) | (frames <= step))
        for row in ended.nonzero().flatten().tolist():
            scores[row] = exact[row].item()
        running = running & ~ended
        for row in running.nonzero().flatten().tolist():
            tokens[row].append(int(best[row]))
        if not running.any():
            break
        after = torch.where((best == last).unsqueeze(1), after_blank, after_any)
        label = _recurrence(after, log_probs[rows, :, best])
        prefix = _Prefix(label, _recurrence(_shift(label, float("-inf")), blank))
        last = best
    return [Hypothesis(found, score) for found, score in zip(tokens, scores, strict=True)]


def _shift(x: torch.Tensor, first: float) -> torch.Tensor:
    """Values of the frame before; ``first`` for the first frame."""
    return torch.cat((torch.full_like(x[:, :1], first), x[:, :-1]), 1)


def _recurrence(entering: torch.Tensor, staying: torch.Tensor) -> torch.Tensor:
    """Solve ``r_t = (r_{t-1} + e_t) p_t`` in the log domain, all ``(batch, time)``.

    With ``P_t`` the product of ``p`` up to t: ``r_t / P_t = sum_{s <= t} e_s / P_{s-1}``.
    """
    products = staying.cumsum(1)
    return products + torch.logcumsumexp(entering - _shift(products, 0.0), 1)
