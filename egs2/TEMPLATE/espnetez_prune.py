#!/usr/bin/env python3
"""Prune, compact and fine-tune with espnetez, ESPnet's trainer for Python users.

The training configurations are those of a shell recipe: --prune_config has hj_prune and its
pruning options, --finetune_config the same without them; both name their token_list.
"""

import argparse
from pathlib import Path

import espnetez

# This import registers hj_prune with ESPnet's tasks.
from espnet_hjprune.bin import compact

DATA = {"speech": ["wav.scp", "sound"], "text": ["text", "text"]}


def get_parser() -> argparse.ArgumentParser:
    """Options of the script."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--task", default="asr", help="ESPnet task")
    parser.add_argument("--train_dump", required=True, help="dump directory with wav.scp and text")
    parser.add_argument("--valid_dump", required=True, help="dump directory for validation")
    parser.add_argument("--prune_config", required=True, help="training YAML with gates")
    parser.add_argument("--finetune_config", required=True, help="training YAML without gates")
    parser.add_argument("--init_param", nargs="*", default=[], help="model to start from")
    parser.add_argument("--exp", required=True, help="directory to write into")
    parser.add_argument(
        "--allow_off_target",
        choices=("true", "false"),
        default="false",
        help="compact also if the gates are far from the target",
    )
    parser.add_argument(
        "--ngpu", type=int, default=0, choices=(0, 1), help="espnetez cannot spawn for several"
    )
    return parser


def train(args: argparse.Namespace, config: Path, output: Path, init_param: list[str]) -> None:
    """Train what a YAML file describes, on statistics that are collected the first time."""
    stats = Path(args.exp) / "stats"
    trainer = espnetez.Trainer(
        task=args.task,
        train_config=espnetez.config.from_yaml(args.task, str(config)),
        output_dir=str(output),
        stats_dir=str(stats),
        data_info=DATA,
        train_dump_dir=args.train_dump,
        valid_dump_dir=args.valid_dump,
        ngpu=args.ngpu,
        init_param=init_param,
    )
    if not (stats / "valid" / "speech_shape").is_file():
        trainer.collect_stats()
    trainer.train()


def main() -> None:
    """Prune, compact and fine-tune."""
    args = get_parser().parse_args()
    exp = Path(args.exp)
    train(args, Path(args.prune_config), exp / "prune", args.init_param)
    # The last epoch: earlier ones are pruned less, or not yet to the target.
    command = ["--task", args.task, "--train_config", str(exp / "prune" / "config.yaml")]
    command += ["--model_file", str(exp / "prune" / "latest.pth")]
    command += ["--output_dir", str(exp / "compact"), "--finetune_config", args.finetune_config]
    compact.main([*command, "--allow_off_target", args.allow_off_target])
    weights = str(exp / "compact" / "model.pth")
    train(args, exp / "compact" / "finetune.yaml", exp / "final", [weights])


if __name__ == "__main__":
    main()
