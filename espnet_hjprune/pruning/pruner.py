"""The gates of an encoder together with the constraint on them."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import nn

from espnet_hjprune.errors import HJPruneError
from espnet_hjprune.nn.config import EncoderConfig
from espnet_hjprune.nn.gate_values import GateValues
from espnet_hjprune.pruning.attachment import Attachment
from espnet_hjprune.pruning.config import PruningConfig
from espnet_hjprune.pruning.constraint import Constraint
from espnet_hjprune.pruning.cost import UnitCounts, encoder_cost
from espnet_hjprune.pruning.discretisation import Discretiser
from espnet_hjprune.pruning.gates import GateSet
from espnet_hjprune.pruning.measures import Measure, measures, pruned_config
from espnet_hjprune.pruning.noise import SharedNoise
from espnet_hjprune.pruning.quadratic import (
    QuadraticForms,
    counts_from_flat,
    flat_counts,
    symbols,
)
from espnet_hjprune.pruning.resident import Resident


class Pruner(nn.Module):
    """Hands gates to an encoder and measures how much they remove.

    Training samples the gates; evaluation uses exactly the gates that compaction would use at
    the current target, so that a validation score is the score of the compact model.

    Args:
        config: architecture of the encoder.
        options: what is pruned, how far, and how fast.

    Raises:
        HJPruneError: a target that cannot be met.

    Example:
        >>> pruner = Pruner(encoder.config, PruningConfig(target_sparsity=0.4))
        >>> attach(pruner, optimizer)
        >>> states, frames = encoder(wave, lengths, pruner())
        >>> loss = task_loss(states[-1], frames) + pruner.regularise()[0]
    """

    def __init__(self, config: EncoderConfig, options: PruningConfig) -> None:
        super().__init__()
        self.dense_config = config
        # What is left after compaction, which fuses the weight norm.
        self.config = pruned_config(config)
        self.options = options
        self.measures = measures(config, options)
        self.gates = GateSet(self.config, options)
        units = symbols(self.config)
        self._costs = QuadraticForms(
            [m.cost(self.config, units) for m in self.measures]
            + [encoder_cost(self.config, units, "macs", options.samples)],
            len(flat_counts(units)),
        )
        dense = [float(m.dense) for m in self.measures]
        self._dense = Resident(torch.tensor(dense, dtype=torch.float64))
        self.constraint = Constraint(options)
        self.noise = SharedNoise()
        # Set by `attach`.
        self.attachment: Attachment | None = None
        self._kept: tuple[torch.Tensor, torch.Tensor, torch.Tensor, UnitCounts] | None = None

    def forward(self) -> GateValues:
        """Gates of one forward pass of the encoder.

        Raises:
            HJPruneError: in training, no optimiser trains gates and multipliers, or they are
                frozen or not in float32.
        """
        if not self.training or self.options.scores:
            return self.evaluation_gates()
        self._check_training()
        device = self.gates.log_alpha.device
        return self.gates.sample(self.noise.generator(device, self.constraint.num_steps))

    @property
    def is_attached(self) -> bool:
        """Whether an optimiser trains the gates; a copy of the pruner must be attached itself."""
        return self.attachment is not None and self.attachment.holds(self.parameters())

    def _check_training(self) -> None:
        """Refuse what would close gates without a constraint."""
        if not self.is_attached:
            raise HJPruneError(
                "no optimiser trains the gates and their constraint; call attach(pruner, "
                "optimizer) before training, or eval() where nothing is trained"
            )
        self.check_trainable()

    def check_trainable(self) -> None:
        """Refuse gates that would never close.

        Raises:
            HJPruneError: they are frozen, or not in float32.
        """
        if not all(parameter.requires_grad for parameter in self.parameters()):
            raise HJPruneError(
                "the gates are frozen, so that they would never close; freeze the encoder's "
                "weights only"
            )
        if any(parameter.dtype != torch.float32 for parameter in self.parameters()):
            raise HJPruneError(
                "the gates are not in float32, in which they must be trained; use mixed precision "
                "(torch.autocast) instead of a model in half precision"
            )

    def evaluation_gates(self) -> GateValues:
        """The deterministic gates of evaluation and compaction."""
        return self.gates.evaluation(self.kept_units()[0])

    def kept_units(self) -> tuple[torch.Tensor, UnitCounts]:
        """Units that compaction would keep now: boolean ``(all gates,)`` and their counts.

        The last answer is reused only while ``log_alpha`` and the target are equal to those that
        it was made from.
        """
        log_alpha = self.gates.log_alpha.detach()
        target = self.constraint.current_target()
        if (
            self._kept is None
            or self._kept[0].device != log_alpha.device
            or not torch.equal(self._kept[0], log_alpha)
            or not torch.equal(self._kept[1], target)
        ):
            discretiser = Discretiser(self.gates)
            keep = discretiser.run(self.measures, [m.target for m in self.current_measures()])
            self._kept = (log_alpha.clone(), target.clone(), keep, discretiser.counts())
        return self._kept[2], self._kept[3]

    def current_measures(self) -> list[Measure]:
        """The measures with the target that holds now."""
        level = self.constraint.level
        if level is None:
            targets = self.constraint.current_target().tolist()
        else:
            # As configured: the schedule computes in float32, in which 0.4 is another number.
            targets = list(self.options.levels[level].values())
        return [replace(m, target=t) for m, t in zip(self.measures, targets, strict=True)]

    def expected_sparsity(self, lower: float = 0.0) -> torch.Tensor:
        """Expected sparsity of every measure, ``(measures,)``, differentiable, float32.

        Args:
            lower: by how much ``log_alpha`` of every gate is taken to be lower than it is.
        """
        return self._expected(lower)[0]

    def expected_counts(self) -> UnitCounts:
        """Expected kept units, each a scalar in float64."""
        flat = self.gates.expected_counts()
        return counts_from_flat(self.config, list(flat.unbind()))

    def _expected(self, lower: float = 0.0) -> tuple[torch.Tensor, torch.Tensor]:
        """Expected sparsity of every measure, and MACs, outside autocast."""
        with torch.autocast(self.gates.log_alpha.device.type, enabled=False):
            costs = self._costs(self.gates.expected_counts(lower))
            # Whole numbers up to here, so that nothing is removed exactly where nothing is closed.
            sparsity = 1 - costs[:-1] / self._dense.on(costs.device)
            return sparsity.float(), costs[-1].float()

    def regularise(self) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """The constraint's loss and what to log of it.

        While training, sparsity and MACs are expected values; in evaluation they are counted on
        the units that compaction would keep, and the loss is zero; so it is where gates are set by
        scores.
        """
        device = self.gates.log_alpha.device
        target = self.constraint.current_target()
        if self.training and not self.options.scores:
            sparsity, macs = self._expected()
            with torch.autocast(device.type, enabled=False):
                loss = self.constraint(sparsity, target)
        else:
            counts = self.kept_units()[1]
            sparsity = torch.tensor(
                [m.whole_sparsity(self.config, counts) for m in self.measures], device=device
            )
            macs = torch.tensor(
                float(encoder_cost(self.config, counts, "macs", self.options.samples)),
                device=device,
            )
            loss = sparsity.new_zeros(())
            if self.training:
                # Distributed training asks for gradients of all parameters; these are zero.
                loss = torch.stack([0.0 * parameter.sum() for parameter in self.parameters()]).sum()
        stats = {"loss_constraint": loss.detach(), "macs": macs.detach()}
        for index, name in enumerate(self.constraint.names):
            suffix = f"_{name}" if name else ""
            stats[f"sparsity{suffix}"] = sparsity[index].detach()
            stats[f"target_sparsity{suffix}"] = target[index]
            stats[f"lambda1{suffix}"] = self.constraint.lambda1[index].detach().clone()
            stats[f"lambda2{suffix}"] = self.constraint.lambda2[index].detach().clone()
        return loss, stats
