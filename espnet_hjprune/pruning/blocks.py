"""Which groups of gates keep equally many units: each its own, or all layers alike."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from espnet_hjprune.errors import HJPruneError
from espnet_hjprune.nn.config import EncoderConfig
from espnet_hjprune.pruning.config import PruningConfig
from espnet_hjprune.pruning.gates import GateGroup


@dataclass(frozen=True)
class Block:
    """Groups of gates whose numbers of kept units go together.

    Attributes:
        groups: places of the groups in the list of all.
        shares: units of each group for one unit of the block.
        units: kinds of its units.
        size: units of the block when all gates are open.
        step: units by which it grows.
        fewest: that the encoder can run with.
    """

    groups: tuple[int, ...]
    shares: tuple[int, ...]
    units: frozenset[str]
    size: int
    step: int
    fewest: int


def blocks(
    groups: Sequence[GateGroup], config: EncoderConfig, options: PruningConfig
) -> list[Block]:
    """The blocks that all groups make up, in the order of the groups.

    With ``uniform``, all layers keep equally many FFN units and heads, the hidden size is that of
    the heads together, and every group of the positional convolution keeps equally many features:
    what models with one size for all layers can hold. CNN layers stay free, as theirs are. The
    encoder must have passed :func:`check_uniform`.
    """
    if not options.uniform:
        return [_alone(index, group, options) for index, group in enumerate(groups)]
    found = []
    for unit in dict.fromkeys(group.unit for group in groups):
        members = [index for index, group in enumerate(groups) if group.unit == unit]
        if unit == "conv":
            found += [_alone(index, groups[index], options) for index in members]
        elif unit == "ffn":
            ones = (1,) * len(members)
            size, step = groups[members[0]].size, options.alignment
            found.append(Block(tuple(members), ones, frozenset({unit}), size, step, 0))
        elif unit == "head":
            # The hidden size goes with them.
            (hidden,) = (i for i, group in enumerate(groups) if group.unit == "hidden")
            step = head_step(config, options)
            shares = (1,) * len(members) + (config.head_dim,)
            both = frozenset({unit, "hidden"})
            size = groups[members[0]].size
            found.append(Block((*members, hidden), shares, both, size, step, min(step, size)))
    return found


def head_step(config: EncoderConfig, options: PruningConfig) -> int:
    """Heads by which a uniform encoder can grow, whose hidden size must divide evenly."""
    multiple = math.lcm(len(config.positional.group_widths), options.alignment)
    return multiple // math.gcd(multiple, config.head_dim)


def check_uniform(config: EncoderConfig) -> None:
    """Make sure that an encoder can stay uniform.

    Raises:
        HJPruneError: its layers are not alike.
    """
    alike = all(
        len(set(sizes)) == 1
        for sizes in (config.heads, config.ffn_sizes, config.positional.group_widths)
    )
    if not alike or config.heads[0] * config.head_dim != config.hidden_size:
        raise HJPruneError(
            "pruning.uniform needs an upstream whose layers are all alike; this one was pruned "
            "without it, or is of a family that has other sizes in each layer"
        )


def _alone(index: int, group: GateGroup, options: PruningConfig) -> Block:
    step = options.alignment if group.unit in ("conv", "ffn", "hidden") else 1
    fewest = min(step, group.size) if group.minimum else 0
    return Block((index,), (1,), frozenset({group.unit}), group.size, step, fewest)
