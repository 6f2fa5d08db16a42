"""The cost formulas as one quadratic form, so that all costs take a handful of operations.

Every cost is a sum of products of at most two counts. Evaluating the formulas on symbols instead of
numbers gives the coefficients; the constraint then works on one vector of all counts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from espnet_hjprune.nn.config import EncoderConfig
from espnet_hjprune.pruning.cost import Count, UnitCounts, config_counts
from espnet_hjprune.pruning.resident import Resident

Term = tuple[int, ...]


class Polynomial:
    """A sum of terms, each a product of counts by their numbers; ``()`` is the constant.

    Example:
        >>> x, y = Polynomial({(0,): 1}), Polynomial({(1,): 1})
        >>> (2 * x * y + y + 3).terms
        {(0, 1): 2, (1,): 1, (): 3}
    """

    def __init__(self, terms: Mapping[Term, float]) -> None:
        self.terms = dict(terms)

    def __add__(self, other: Polynomial | float) -> Polynomial:
        """Sum with another one, or a number."""
        total = dict(self.terms)
        for term, factor in _terms(other).items():
            total[term] = total.get(term, 0) + factor
        return Polynomial(total)

    def __mul__(self, other: Polynomial | float) -> Polynomial:
        """Product with another one, or a number."""
        product: dict[Term, float] = {}
        for term, factor in self.terms.items():
            for more, by in _terms(other).items():
                joined = tuple(sorted(term + more))
                product[joined] = product.get(joined, 0) + factor * by
        return Polynomial(product)

    def __rsub__(self, number: float) -> Polynomial:
        """A number minus this."""
        return self * -1 + number

    def __truediv__(self, number: float) -> Polynomial:
        """Divide by a number."""
        return Polynomial({term: factor / number for term, factor in self.terms.items()})

    __radd__ = __add__
    __rmul__ = __mul__


def _terms(value: Polynomial | float) -> Mapping[Term, float]:
    return value.terms if isinstance(value, Polynomial) else {(): value}


def flat_counts(counts: UnitCounts) -> list[Count]:
    """All counts in one list: CNN layers, heads, FFN units, open layers, hidden size, its pairs."""
    return [
        *counts.conv,
        *counts.head,
        *counts.ffn,
        *counts.attention_layer,
        *counts.ffn_layer,
        counts.hidden,
        counts.positional_pairs,
    ]


def counts_from_flat(config: EncoderConfig, flat: Sequence[Count]) -> UnitCounts:
    """The inverse of :func:`flat_counts`, for an encoder with as many layers."""
    convs, layers = len(config.conv_layers), len(config.heads)
    head, ffn, attention_layer, ffn_layer = (
        list(flat[convs + place * layers : convs + (place + 1) * layers]) for place in range(4)
    )
    return UnitCounts(
        conv=list(flat[:convs]),
        head=head,
        ffn=ffn,
        hidden=flat[-2],
        positional_pairs=flat[-1],
        attention_layer=attention_layer,
        ffn_layer=ffn_layer,
    )


def symbols(config: EncoderConfig) -> UnitCounts:
    """Counts that stand for themselves."""
    size = len(flat_counts(config_counts(config)))
    return counts_from_flat(config, [Polynomial({(number,): 1}) for number in range(size)])


class QuadraticForms:
    """Several costs as functions of the vector of all counts.

    Args:
        costs: polynomials of :func:`symbols`.
        size: length of the vector.
    """

    def __init__(self, costs: Sequence[Polynomial | float], size: int) -> None:
        # One more entry of the vector is 1, for linear terms and constants.
        matrices = torch.zeros(len(costs), size + 1, size + 1, dtype=torch.float64)
        for matrix, cost in zip(matrices, costs, strict=True):
            for term, factor in _terms(cost).items():
                first, second = (*term, size, size)[:2]
                matrix[first, second] += factor
        self._matrices = Resident(matrices)

    def __call__(self, counts: torch.Tensor) -> torch.Tensor:
        """Costs ``(costs,)`` of ``(counts,)``, in float64."""
        vector = torch.cat([counts, counts.new_ones(1)])
        return ((self._matrices.on(counts.device) @ vector) * vector).sum(-1)
