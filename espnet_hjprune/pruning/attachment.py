"""The tie between the gates of an encoder and the optimiser that trains them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from torch import nn
from torch.utils.hooks import RemovableHandle


@dataclass
class Attachment:
    """Gates and multipliers that an optimiser trains.

    A copy of a pruner, or one that was pickled, has parameters of its own, which no optimiser
    trains: a copy of an attachment is ``None``.

    Attributes:
        parameters: gates and multipliers.
        handles: of the hooks on them and on the optimiser.
    """

    parameters: list[nn.Parameter]
    handles: list[RemovableHandle]

    def holds(self, parameters: Iterable[nn.Parameter]) -> bool:
        """Whether these are the parameters that the optimiser trains."""
        return [id(p) for p in self.parameters] == [id(p) for p in parameters]

    def release(self) -> None:
        """Remove the hooks."""
        for handle in self.handles:
            handle.remove()

    def __deepcopy__(self, memo: dict[int, Any]) -> None:
        """No copy."""

    def __reduce__(self) -> tuple[type[None], tuple[()]]:
        """Pickle as ``None``."""
        return type(None), ()
