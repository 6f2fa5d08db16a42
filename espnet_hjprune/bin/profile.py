"""Count MACs and parameters of an encoder, in total and by module."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence

from espnet_hjprune.bin.cli import run_command
from espnet_hjprune.constants import SAMPLE_RATE
from espnet_hjprune.errors import HJPruneError
from espnet_hjprune.markdown import markdown_table
from espnet_hjprune.model.architecture import find_architecture
from espnet_hjprune.nn.config import EncoderConfig
from espnet_hjprune.pruning.cost import ModuleCost, config_counts, module_costs
from espnet_hjprune.target import PARTS, Part
from espnet_hjprune.upstream import ARCHITECTURES


def get_parser() -> argparse.ArgumentParser:
    """Options of the command."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--upstream", help="named architecture, or s3prl upstream with --ckpt")
    parser.add_argument("--ckpt", help="checkpoint of the upstream")
    parser.add_argument("--model_dir", help="ESPnet model directory instead of an upstream")
    parser.add_argument("--seconds", type=float, default=10.0, help="audio length")
    parser.add_argument(
        "--table", action="store_true", help="print a Markdown table of all named architectures"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    return parser


def count_modules(config: EncoderConfig, samples: int) -> list[ModuleCost]:
    """Costs of every module for so many samples.

    Raises:
        HJPruneError: the audio is shorter than one frame.
    """
    if samples < config.receptive_field:
        raise HJPruneError(
            f"--seconds {samples / SAMPLE_RATE:g} is shorter than one frame of "
            f"{config.receptive_field / SAMPLE_RATE:.3f} seconds"
        )
    return module_costs(config, config_counts(config), samples)


def totals(modules: Sequence[ModuleCost], part: Part | None = None) -> tuple[int, int]:
    """MACs and parameters of all modules, or of those of a part."""
    chosen = [module for module in modules if part is None or module.part == part]
    return sum(module.macs for module in chosen), sum(module.params for module in chosen)


def architecture_table(samples: int) -> str:
    """Sizes and costs of the named architectures; those of equal cost share a row."""
    named: dict[tuple[str, ...], list[str]] = {}
    for name, make in ARCHITECTURES.items():
        if name.endswith("_mini"):
            continue
        config = make()
        modules = count_modules(config, samples)
        macs, params = totals(modules)
        cnn, _ = totals(modules, "cnn")
        row = (
            f"{len(config.conv_layers)} x {config.conv_layers[0].channels}",
            f"{len(config.heads)} x {config.hidden_size}, {config.heads[0]} heads, "
            f"FFN {config.ffn_sizes[0]}",
            f"{macs / 1e9:.2f}",
            f"{params / 1e6:.2f} M",
            f"{cnn / macs:.1%}",
        )
        named.setdefault(row, []).append(f"`{name}`")
    header = ("architecture", "CNN", "Transformer", "GMACs", "parameters", "CNN's share of MACs")
    return markdown_table([header, *((", ".join(names), *row) for row, names in named.items())])


def main(argv: Sequence[str] | None = None) -> None:
    """Print the counts."""
    args = get_parser().parse_args(argv)
    if args.seconds <= 0:
        raise HJPruneError(f"--seconds is {args.seconds}; it must be positive")
    samples = round(args.seconds * SAMPLE_RATE)
    if args.table and (args.upstream or args.model_dir or args.json):
        raise HJPruneError("--table prints all named architectures; give it without other models")
    if args.table:
        print(architecture_table(samples), end="")
        return
    if bool(args.upstream) == bool(args.model_dir):
        raise HJPruneError("give either --upstream or --model_dir, or --table")
    modules = count_modules(find_architecture(args.upstream, args.ckpt, args.model_dir), samples)
    macs, params = totals(modules)
    if args.json:
        rows = [{"name": m.name, "macs": m.macs, "params": m.params} for m in modules]
        print(json.dumps({"macs": macs, "params": params, "modules": rows}, indent=2))
        return
    width = max(len(module.name) for module in modules)
    print(f"{'module':{width}}  {'GMACs':>9}  {'share':>6}  {'parameters':>12}")
    for module in modules:
        share = module.macs / macs
        print(f"{module.name:{width}}  {module.macs / 1e9:9.3f}  {share:6.1%}  {module.params:12,}")
    for part in PARTS:
        part_macs, part_params = totals(modules, part)
        print(f"{part:{width}}  {part_macs / 1e9:9.3f}  {part_macs / macs:6.1%}  {part_params:12,}")
    print(f"{'total':{width}}  {macs / 1e9:9.3f}  {1:6.1%}  {params:12,}")


if __name__ == "__main__":
    run_command(main)
