"""Hard-concrete gates, cost model, sparsity constraint, discretisation and slicing."""

from espnet_hjprune.pruning.config import PruningConfig
from espnet_hjprune.pruning.cost import (
    ModuleCost,
    config_counts,
    encoder_cost,
    module_costs,
)
from espnet_hjprune.pruning.gates import GateSet
from espnet_hjprune.pruning.optimizer import attach, parameter_groups
from espnet_hjprune.pruning.pruner import Pruner
from espnet_hjprune.pruning.slicing import compact_encoder

__all__ = [
    "GateSet",
    "ModuleCost",
    "Pruner",
    "PruningConfig",
    "attach",
    "compact_encoder",
    "config_counts",
    "encoder_cost",
    "module_costs",
    "parameter_groups",
]
