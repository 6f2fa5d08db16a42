"""Seconds of an encoder as a function of how many units it keeps, as they were measured.

The form is that of the MACs, sums of products of at most two counts, with coefficients that were
fitted to one machine. So the constraint and the discretisation work on seconds as on MACs.
:mod:`~espnet_hjprune.benchmark.latency` makes the tables.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from importlib import resources
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from espnet_hjprune.errors import HJPruneError
from espnet_hjprune.nn.config import EncoderConfig
from espnet_hjprune.options import build_dataclass

if TYPE_CHECKING:
    from espnet_hjprune.pruning.cost import Count, UnitCounts

SHIPPED = "espnet_hjprune.latency_tables"
# What makes up an encoder; of the last two there is one for every Transformer layer.
MODULES = ("cnn", "projection", "hidden", "attention", "ffn")


def features(counts: UnitCounts) -> dict[str, list[list[Count]]]:
    """What the seconds of every module are sums of, for each of :data:`MODULES` and every layer.

    With C channels, d hidden size, h heads, m FFN units, and o, which is 1 where a layer's
    attention or FFN is not closed:

    - ``cnn``: 1, every C, and every product of neighbouring C,
    - ``projection``: 1, C, d, C d,
    - ``hidden`` (positional embedding, norm): 1, d, pairs of the positional conv,
    - ``attention`` with its norm: 1, d, o, o d, h, h d,
    - ``ffn`` with its norm: 1, d, o, o d, m, m d.
    """
    channels, d = list(counts.conv), counts.hidden
    products = [below * above for below, above in pairwise(channels)]

    def layers(open_: Sequence[Count], units: Sequence[Count]) -> list[list[Count]]:
        return [[1, d, o, o * d, u, u * d] for o, u in zip(open_, units, strict=True)]

    return {
        "cnn": [[1, *channels, *products]],
        "projection": [[1, channels[-1], d, channels[-1] * d]],
        "hidden": [[1, d, counts.positional_pairs]],
        "attention": layers(counts.attention_layer, counts.head),
        "ffn": layers(counts.ffn_layer, counts.ffn),
    }


@dataclass(frozen=True)
class LatencyTable:
    """Measured seconds of encoders of one architecture, of any widths, on one machine.

    Attributes:
        architecture: what widths do not tell, as :func:`signature` does.
        device: ``cpu`` or ``cuda``.
        dtype: of the weights, as torch calls it.
        threads: of the CPU.
        seconds: length of the audio.
        batch: utterances.
        step: widths of channels, FFN units and hidden size that are as fast as the next multiple
            of this.
        coefficients: seconds for each of :func:`features`, by module; none is negative.
        machine: what it was measured on, for people.
        check: how far predictions were from the measured seconds of other encoders.
    """

    architecture: dict[str, Any]
    device: str
    dtype: str
    threads: int
    seconds: float
    batch: int
    step: int
    coefficients: dict[str, list[float]]
    machine: dict[str, Any]
    check: dict[str, Any]

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], source: str) -> LatencyTable:
        """Read what :meth:`to_dict` returned.

        Args:
            values: the table.
            source: what errors call it.

        Raises:
            HJPruneError: it is no such table.
        """
        try:
            table = build_dataclass(cls, values, source)
        except (TypeError, HJPruneError) as error:
            raise HJPruneError(f"{source} is no table of latencies: {error}") from None
        fitted = table.coefficients
        if not isinstance(fitted, Mapping) or not all(
            isinstance(fitted.get(module), list) and all(map(_is_coefficient, fitted[module]))
            for module in MODULES
        ):
            raise HJPruneError(
                f"{source} lacks coefficients of some modules, or has negative ones; make it with "
                "hjprune measure"
            )
        if table.step < 1:
            raise HJPruneError(f"{source} has the step {table.step}; it is a number from 1")
        return table

    def to_dict(self) -> dict[str, Any]:
        """Plain lists, numbers and strings, fit for JSON and YAML."""
        return asdict(self)

    def check_fits(self, config: EncoderConfig) -> None:
        """Make sure that it was measured with encoders of this architecture.

        Raises:
            HJPruneError: it was not.
        """
        from espnet_hjprune.pruning.cost import config_counts

        wanted = signature(config)
        other = [name for name in wanted if wanted[name] != self.architecture.get(name)]
        for module, rows in features(config_counts(config)).items():
            if not other and len(self.coefficients[module]) != len(rows[0]):
                raise HJPruneError(
                    f"pruning.latency_table has {len(self.coefficients[module])} coefficients of "
                    f"{module}, not {len(rows[0])}; make it anew with hjprune measure"
                )
        if other:
            raise HJPruneError(
                f"pruning.latency_table is of another architecture ({', '.join(other)} "
                f"{'differs' if len(other) == 1 else 'differ'}); make one for this upstream with "
                "hjprune measure"
            )

    def modules(self, counts: UnitCounts) -> dict[str, list[Count]]:
        """Seconds of every module of :data:`MODULES`, of some layer by layer."""
        return {
            module: [
                sum(f * value for f, value in zip(self.coefficients[module], values, strict=True))
                for values in rows
            ]
            for module, rows in features(counts).items()
        }

    def cost(self, counts: UnitCounts) -> Count:
        """Seconds of an encoder with these units, as fractional or symbolic as they are."""
        return sum(sum(seconds) for seconds in self.modules(counts).values())

    def whole_cost(self, counts: UnitCounts) -> float:
        """Seconds of an encoder with whole numbers of units, which are as slow as full steps.

        The groups of the positional conv count as equally wide.
        """

        def up(count: int) -> int:
            return -(-count // self.step) * self.step

        hidden = up(counts.hidden)
        return float(
            self.cost(
                replace(
                    counts,
                    conv=[up(count) for count in counts.conv],
                    ffn=[up(count) for count in counts.ffn],
                    hidden=hidden,
                    positional_pairs=hidden**2 / self.architecture["positional"][1],
                )
            )
        )


def _is_coefficient(value: Any) -> bool:
    return isinstance(value, (int, float)) and 0 <= value < math.inf


def signature(config: EncoderConfig) -> dict[str, Any]:
    """What an architecture's speed depends on, apart from its widths."""
    positional = config.positional
    return {
        "conv": [[layer.kernel, layer.stride] for layer in config.conv_layers],
        "extractor_norm": config.extractor_norm,
        "conv_bias": config.conv_bias,
        "layers": len(config.heads),
        "head_dim": config.head_dim,
        "norm_first": config.norm_first,
        "activation": config.activation,
        "positional": [positional.kernel, len(positional.group_widths), positional.depth],
        "relative": None if config.relative is None else config.relative.gated,
    }


def shipped_tables() -> list[str]:
    """Names of the tables that come with the package."""
    files = resources.files(SHIPPED).iterdir()
    return sorted(Path(file.name).stem for file in files if file.name.endswith(".json"))


def read_table(given: str | Mapping[str, Any]) -> LatencyTable:
    """A table from its file, from the name of one that comes with the package, or as it is.

    Raises:
        HJPruneError: there is no such file, or it is no table.
    """
    if isinstance(given, Mapping):
        return LatencyTable.from_dict(given, "pruning.latency_table")
    if given in shipped_tables():
        text, source = resources.files(SHIPPED).joinpath(f"{given}.json").read_text(), given
    else:
        source = str(given)
        try:
            text = Path(given).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise HJPruneError(
                f"pruning.latency_table {given} cannot be read ({error}); make one with hjprune "
                f"measure, or choose among {', '.join(shipped_tables())}"
            ) from None
    try:
        values = json.loads(text)
    except ValueError as error:
        raise HJPruneError(f"{source} is no JSON file: {error}") from None
    if not isinstance(values, dict):
        raise HJPruneError(f"{source} is no table of latencies")
    return LatencyTable.from_dict(values, source)
