"""Write the configuration that a training of a recipe runs with, and its number of steps."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import yaml

from espnet_hjprune.atomic import write_text
from espnet_hjprune.bin.cli import run_command
from espnet_hjprune.config_file import read_config
from espnet_hjprune.data.tokens import TOKEN_TYPES
from espnet_hjprune.errors import HJPruneError
from espnet_hjprune.espnet.batches import count_batches
from espnet_hjprune.model.espnet_config import UNLABELLED, plugin_options
from espnet_hjprune.recipe.method import METHOD_OPTIONS, Method
from espnet_hjprune.recipe.training_config import (
    Ramp,
    Source,
    with_alignment,
    with_dense_teacher,
    with_distillation,
    with_source,
    with_steps,
)
from espnet_hjprune.training.steps import (
    count_steps,
    step_options,
    training_options,
    whole_numbers,
)


def get_parser() -> argparse.ArgumentParser:
    """Options of the command; empty texts are the same as options that are not given."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--config", type=Path, required=True, help="ESPnet's YAML file")
    parser.add_argument(
        "--output_dir", type=Path, required=True, help="training.yaml and steps.json go here"
    )
    parser.add_argument("--shape_dir", type=Path, required=True, help="made by recipe.shapes")
    parser.add_argument(
        "--token_type", choices=TOKEN_TYPES, help="names text_shape, if there is text"
    )
    parser.add_argument("--ngpu", type=int, default=0, help="number of GPUs per machine")
    parser.add_argument("--num_nodes", type=int, default=1, help="number of machines")
    parser.add_argument("--max_epoch", type=int, help="epochs; default as it is configured")
    parser.add_argument("--seed", default="", help="of the training")
    parser.add_argument("--init_param", default="", help="weights that the training starts from")
    parser.add_argument("--upstream", default="", help="s3prl's name")
    parser.add_argument("--upstream_ckpt", default="", help="its checkpoint")
    parser.add_argument("--normalize_input", default="", help="true or false: scale audio or not")
    parser.add_argument("--trust_checkpoint", default="false", help="true: execute the checkpoint")
    parser.add_argument("--init_ctc", default="false", help="true: take over its CTC layer")
    parser.add_argument("--compile", default="false", help="true: train a compiled encoder")
    parser.add_argument(
        "--teacher",
        default="",
        help="weights of the model that teaches this one; without labels "
        "the directory of the dense upstream",
    )
    pruning = parser.add_argument_group("of a pruning")
    pruning.add_argument("--ramp_epochs", type=int, help="epochs in which the target rises")
    pruning.add_argument("--hold_epochs", type=int, default=0, help="epochs at each of several")
    pruning.add_argument("--rise_epochs", type=int, default=0, help="epochs between them")
    pruning.add_argument(
        "--allow_off_target", default="false", help="true: train even if the target is out of reach"
    )
    pruning.add_argument("--uniform", default="false", help="true: all layers alike")
    for option in METHOD_OPTIONS:
        pruning.add_argument(f"--{option}", default="", help="as the recipe has it")
    parser.add_argument(
        "train_args",
        nargs="*",
        help="after '--': the training's options, which count before the configuration",
    )
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """Write the two files.

    Raises:
        HJPruneError: a file is missing, an option is wrong, or there is no fixed number of steps.
    """
    args = get_parser().parse_args(argv)
    config = read_config(args.config)
    config |= whole_numbers(config)
    ramp = None
    if args.upstream:
        source = Source(
            args.upstream,
            args.upstream_ckpt,
            args.normalize_input,
            args.trust_checkpoint == "true",
            args.init_ctc == "true",
        )
        config = with_source(config, args.config, source)
    if args.ramp_epochs is not None:
        ramp = Ramp(args.ramp_epochs, args.hold_epochs, args.rise_epochs)
        method = Method.from_options(*(getattr(args, option) for option in METHOD_OPTIONS))
        config = method.apply(config, args.config)
        for flag in ("allow_off_target", "uniform"):
            if getattr(args, flag) == "true":
                plugin_options(config, args.config)["pruning"][flag] = True
    if config.get("model") == UNLABELLED:
        config = with_dense_teacher(config, args.config, args.teacher)
    elif args.teacher:
        config = with_distillation(config, args.config, args.teacher)
    if args.compile == "true":
        plugin_options(config, args.config)["compile"] = True
    if args.seed:
        config["seed"] = int(args.seed)
    if args.init_param:
        config["init_param"] = [args.init_param]
    shape_files = [args.shape_dir / "speech_shape"]
    if args.token_type:
        shape_files.append(args.shape_dir / f"text_shape.{args.token_type}")
    for path in shape_files:
        if not path.is_file():
            raise HJPruneError(f"{path} does not exist; run stage 2 first")
    given = training_options(args.train_args)
    if args.max_epoch is not None:
        given["max_epoch"] = args.max_epoch
    if "scheduler" in given:
        config["scheduler"] = given["scheduler"]
    options = step_options(config, given)
    batches = count_batches(options, shape_files, max(args.ngpu, 1) * args.num_nodes)
    steps = count_steps(options, batches)
    config = with_steps(config, args.config, steps, ramp)
    output = args.output_dir / "training.yaml"
    device = "cuda" if args.ngpu > 0 else "cpu"
    config = with_alignment(config, args.config, output, device)
    write_text(
        output,
        yaml.safe_dump(config, sort_keys=False, allow_unicode=True),
    )
    write_text(args.output_dir / "steps.json", json.dumps(asdict(steps)) + "\n")


if __name__ == "__main__":
    run_command(main)
