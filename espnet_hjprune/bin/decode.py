"""Decode a CTC model or a linear classifier in batches, without ESPnet.

It writes the files that ``espnet2.bin.asr_inference`` writes, and every utterance gets the
probabilities that it has when it is decoded alone.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

from espnet_hjprune.bin.cli import run_command
from espnet_hjprune.config_file import read_config
from espnet_hjprune.data.datadir import read_table
from espnet_hjprune.errors import HJPruneError
from espnet_hjprune.inference.config import DecodeConfig
from espnet_hjprune.options import build_dataclass

AUDIO_TYPES = ("sound", "kaldi_ark")


def get_parser() -> argparse.ArgumentParser:
    """Options of the command."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    several = parser.add_argument_group(
        "what to decode", "several values of these options are as many decodings, one by one"
    )
    for name, text in (
        ("train_config", "ESPnet's config.yaml of the model"),
        ("model_file", "its weights"),
        ("wav_scp", "utterances and their audio"),
        ("output_dir", "where results go"),
    ):
        several.add_argument(f"--{name}", type=Path, nargs="+", required=True, help=text)
    several.add_argument(
        "--key_file", type=Path, nargs="+", help="tables of the utterances to decode; default all"
    )
    parser.add_argument("--audio_type", choices=AUDIO_TYPES, default="sound")
    parser.add_argument("--ngpu", type=int, default=0, help="0 for the CPU")
    parser.add_argument("--config", help="YAML file with the options below")
    for option in fields(DecodeConfig):
        parser.add_argument(f"--{option.name}", help=f"default {option.default!r}")
    return parser


def decode_options(args: argparse.Namespace) -> DecodeConfig:
    """Options of the configuration, then those of the command line."""
    values = read_config(args.config) if args.config else {}
    given = {option.name: getattr(args, option.name) for option in fields(DecodeConfig)}
    values |= {name: value for name, value in given.items() if value is not None}
    return build_dataclass(DecodeConfig, values, args.config or "decoding")


def decodings(args: argparse.Namespace) -> list[tuple[Path, Path, Path, Path, Path | None]]:
    """Configuration, weights, table, output and optional keys of every decoding.

    Raises:
        HJPruneError: the options have not equally many values.
    """
    names = ("train_config", "model_file", "wav_scp", "output_dir")
    columns = [getattr(args, name) for name in names]
    columns.append(args.key_file or [None] * len(args.wav_scp))
    if len({len(column) for column in columns}) > 1:
        raise HJPruneError(f"--{', --'.join(names)} and --key_file need equally many values")
    return list(zip(*columns, strict=True))


def selected(wav_scp: Path, key_file: Path | None) -> dict[str, str]:
    """Locations of the utterances to decode.

    Raises:
        HJPruneError: an utterance of ``key_file`` is not in ``wav_scp``.
    """
    table = read_table(wav_scp)
    if key_file is None:
        return table
    wanted = read_table(key_file)
    missing = sorted(wanted.keys() - table.keys())
    if missing:
        raise HJPruneError(f"{wav_scp} has no utterance {missing[0]} of {key_file}")
    return {name: table[name] for name in wanted}


def main(argv: Sequence[str] | None = None) -> None:
    """Decode the utterances."""
    args = get_parser().parse_args(argv)
    options = decode_options(args)
    jobs = decodings(args)
    import torch

    from espnet_hjprune.inference.decode import Decoder
    from espnet_hjprune.inference.model import load_recogniser

    if args.ngpu and not torch.cuda.is_available():
        raise HJPruneError("--ngpu needs a GPU that torch can use; there is none")
    device = "cuda" if args.ngpu else "cpu"
    is_ark = args.audio_type == "kaldi_ark"
    source = None
    for job in jobs:
        if source != job[:2]:
            source = job[:2]
            decoder = Decoder(load_recogniser(*source), options, device)
        _, _, wav_scp, output, key_file = job
        utterances = selected(wav_scp, key_file)
        decoder.decode(utterances, wav_scp.parent, output, is_ark)


if __name__ == "__main__":
    run_command(main)
