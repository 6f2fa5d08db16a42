"""Gates and multipliers in the optimiser that trains the weights.

The training is one min-max problem (paper Eq. 6): weights and gates go down the gradient,
multipliers go up. All of it is done by one optimiser, in parameter groups of their own.
"""

from __future__ import annotations

from typing import Any

import torch

from espnet_hjprune.errors import HJPruneError
from espnet_hjprune.pruning.attachment import Attachment
from espnet_hjprune.pruning.pruner import Pruner

# Names of the parameter groups, by which a scheduler finds them.
GATES = "gates"
MULTIPLIERS = "multipliers"
# The step of Adam does not depend on the scale of the gradient as long as its epsilon is far below
# it. So gates and multipliers get gradients a thousand times smaller: the norm over all parameters,
# by which training loops clip, is then that of the weights.
GRADIENT_SCALE = 1e-3
ADAM_EPSILON = 1e-15


def parameter_groups(pruner: Pruner) -> list[dict[str, Any]]:
    """Parameter groups of gates and multipliers for an optimiser of the Adam kind.

    Both have learning rates of their own and no weight decay. Here the multipliers ascend: their
    group has ``maximize``.
    """
    options, constraint = pruner.options, pruner.constraint
    common = {"weight_decay": 0.0, "eps": ADAM_EPSILON}
    return [
        {
            "name": GATES,
            "params": [pruner.gates.log_alpha],
            "lr": options.gate_lr,
            "maximize": False,
            **common,
        },
        {
            "name": MULTIPLIERS,
            "params": [constraint.lambda1, constraint.lambda2],
            "lr": options.lambda_lr,
            "maximize": True,
            **common,
        },
    ]


def attach(pruner: Pruner, optimizer: torch.optim.Optimizer) -> None:
    """Let an optimiser train the gates and multipliers of a pruner beside the weights.

    They are taken out of the optimiser's groups, if they are in some, and put into groups of their
    own. Every step of this optimiser, and no other, advances the clock of the target. Call it
    before a scheduler is made; a stock scheduler changes the rates of gates and multipliers like
    all others, unless it gets a function for each group, as ``LambdaLR`` takes them.

    Attached to another optimiser, the gates leave the one before. With several processes
    (``DistributedDataParallel``), let the module that is wrapped return task loss and constraint
    together, and give all processes the same seed, which the gates are drawn from.

    Args:
        pruner: the gates of an upstream.
        optimizer: an optimiser of the Adam kind, such as ``torch.optim.AdamW``; it may have been
            made of all parameters of the model.

    Raises:
        HJPruneError: the optimiser cannot train gates, trains these already, or has a scheduler;
            the gates are frozen or not in float32.

    Example:
        >>> optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
        >>> attach(model.upstream.pruner, optimizer)
    """
    if not {"maximize", "betas"} <= set(optimizer.defaults):
        raise HJPruneError(
            f"the optimiser {type(optimizer).__name__} cannot train gates, which need one of the "
            "Adam kind that can maximise; use AdamW"
        )
    if any("initial_lr" in group for group in optimizer.param_groups):
        raise HJPruneError(
            "the optimiser has a scheduler already, which would not know the groups of gates and "
            "multipliers; attach the pruner before the scheduler is made"
        )
    pruner.check_trainable()
    own = {id(parameter) for parameter in pruner.parameters()}
    for group in optimizer.param_groups:
        if group.get("name") == GATES and own & {id(parameter) for parameter in group["params"]}:
            raise HJPruneError("this optimiser trains the gates already; attach them once")
    if pruner.attachment is not None:
        pruner.attachment.release()
    for group in optimizer.param_groups:
        kept = [n for n, parameter in enumerate(group["params"]) if id(parameter) not in own]
        # Optimisers made of named parameters list the names too.
        for key in {"params", "param_names"} & set(group):
            group[key] = [group[key][n] for n in kept]
    named = "param_names" in optimizer.param_groups[0]
    names = {id(parameter): f"pruner.{name}" for name, parameter in pruner.named_parameters()}
    for group in parameter_groups(pruner):
        if named:
            group["params"] = [(names[id(parameter)], parameter) for parameter in group["params"]]
        optimizer.add_param_group(group)

    def count_step(*_: Any) -> None:
        # A fused optimiser is asked to step also where a gradient scaler has found no numbers, and
        # finds out on the device that it must not.
        skipped = getattr(optimizer, "found_inf", None)
        pruner.constraint.count_step(1.0 if skipped is None else 1.0 - skipped)
        pruner.gates.limit()

    handles = [
        parameter.register_hook(lambda gradient: gradient * GRADIENT_SCALE)
        for parameter in pruner.parameters()
    ]
    handles.append(optimizer.register_step_post_hook(count_step))
    pruner.attachment = Attachment(list(pruner.parameters()), handles)
