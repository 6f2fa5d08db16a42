"""Training steps through ESPnet, as stages 3 and 4 of the recipes run them.

A small corpus of noise is trained on with the configurations of the LibriSpeech recipe, in
processes of their own, and the times are read from ESPnet's log.
"""

from __future__ import annotations

import gc
import importlib.util
import logging
import os
import random
import string
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from espnet_hjprune.benchmark.compare import Comparison, Row, figures
from espnet_hjprune.benchmark.modes import reason
from espnet_hjprune.benchmark.peers import IMPORT_ERRORS, import_peer
from espnet_hjprune.benchmark.training_step import PASSES, WITH_GATES, WITHOUT_GATES
from espnet_hjprune.config_file import read_config
from espnet_hjprune.constants import SAMPLE_RATE
from espnet_hjprune.data.audio import write_audio
from espnet_hjprune.data.datadir import write_table
from espnet_hjprune.data.shapes import write_shapes
from espnet_hjprune.data.tokens import build_tokenizer, count_tokens, write_token_list
from espnet_hjprune.errors import HJPruneError
from espnet_hjprune.training.training_log import TrainingLog, read_training_log
from espnet_hjprune.upstream.architectures import architecture
from espnet_hjprune.upstream.families import family_of
from espnet_hjprune.upstream.random_checkpoint import save_random_checkpoint

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = ROOT / "egs2" / "librispeech_100" / "asr1" / "conf" / "tuning"
TOKEN_TYPE = "char"
# Steps of the optimiser that are left out: workers start, and kernels are chosen.
LEFT_OUT = 2
# As many as in LibriSpeech; the loss takes longer over longer texts.
LETTERS_PER_SECOND = 14
# A few steps are too few for any target.
PRUNING_OPTIONS = ("--ramp_epochs", "0", "--allow_off_target", "true")


@dataclass(frozen=True)
class Stage:
    """A stage of the recipes that trains.

    Attributes:
        name: of its row.
        config: its configuration.
        options: of ``recipe.configure``, beside those of both stages.
        bare: the row with the same step outside of ESPnet.
    """

    name: str
    config: str
    options: tuple[str, ...]
    bare: str


STAGES = (
    Stage("fine-tuning through ESPnet", "train.yaml", (), WITHOUT_GATES),
    Stage("pruning through ESPnet", "prune.yaml", PRUNING_OPTIONS, WITH_GATES),
)


def check_recipe(upstream: str) -> None:
    """Make sure that there is what steps through ESPnet need, before anything is measured.

    Raises:
        HJPruneError: ESPnet, the recipe or s3prl is missing.
    """
    without = "or leave --recipe out"
    if importlib.util.find_spec("espnet2") is None:
        raise HJPruneError(f"--recipe needs ESPnet, which is not installed; install it, {without}")
    if not CONFIGS.is_dir():
        raise HJPruneError(
            f"--recipe needs {CONFIGS}, which is missing; run it from a checkout, {without}"
        )
    try:
        # The random checkpoint is made by s3prl, and read by it.
        import_peer("s3prl", upstream)
    except IMPORT_ERRORS as error:
        raise HJPruneError(
            f"--recipe needs s3prl, which cannot be imported ({reason(error)}); install a version "
            f"that fits to this torch, {without}"
        ) from None


def add_recipe_rows(options: Comparison, rows: Sequence[Row]) -> list[Row]:
    """The rows of bare training steps, each setting's followed by those of steps through ESPnet.

    :func:`check_recipe` says beforehand whether they can run.

    Such a row has ``over_bare``, its time divided by that of the bare step, and as
    ``reserved_memory`` all that the training reserves on a GPU, weights and optimiser included. A
    training that cannot run is left out, with a warning.

    Args:
        options: what was compared.
        rows: as :func:`compare_training` made them.
    """
    if options.device == "cuda":
        # The trainings need the memory that this process keeps for itself.
        gc.collect()
        torch.cuda.empty_cache()
    result = []
    for index, row in enumerate(rows):
        result.append(row)
        setting = (row["seconds"], row["batch"])
        following = rows[index + 1] if index + 1 < len(rows) else None
        if following is None or setting != (following["seconds"], following["batch"]):
            beside = [r for r in rows if (r["seconds"], r["batch"]) == setting]
            result += _rows_of_setting(options, beside)
    return result


def _rows_of_setting(options: Comparison, beside: Sequence[Row]) -> list[Row]:
    """Rows through ESPnet with the audio of the rows beside them."""
    seconds, batch = beside[0]["seconds"], beside[0]["batch"]
    bare = {row["model"]: row["latency"] for row in beside}
    rows = []
    with tempfile.TemporaryDirectory() as directory:
        training = RecipeTraining(options, Path(directory), seconds, batch)
        for stage in STAGES:
            logging.info("Training: %s, %s x %g s", stage.name, batch, seconds)
            try:
                log = training.run(stage)
                times = step_times(log, training.accum_grad(stage))
            except HJPruneError as error:
                logging.warning("The row %s is left out: %s", stage.name, error)
                continue
            config = architecture(options.upstream)
            row = figures(options, stage.name, config, times, seconds, batch, PASSES)
            row["peak_memory"], row["reserved_memory"] = None, reserved_bytes(log)
            row["speed_up"] = beside[0]["latency"] / row["latency"]
            row["mac_reduction"] = beside[0]["macs"] / row["macs"]
            if stage.bare in bare:
                row["over_bare"] = row["latency"] / bare[stage.bare]
            rows.append(row)
    return rows


def step_times(log: TrainingLog, accum_grad: int) -> list[float]:
    """Seconds of one batch in every step of the optimiser, without the first steps.

    Args:
        log: of a training that logs every step.
        accum_grad: batches of a step. ESPnet's ``train_time`` is the time from step to step, with
            the loading of the data and the step itself.

    Raises:
        HJPruneError: the log has too few steps.
    """
    _, times = log.train_series("train_time")
    if len(times) <= LEFT_OUT:
        raise HJPruneError(f"its log has {len(times)} steps, and needs more than {LEFT_OUT}")
    return [time / accum_grad for time in times[LEFT_OUT:]]


def reserved_bytes(log: TrainingLog) -> int | None:
    """All that the training reserved on a GPU; ``None`` without one."""
    _, found = log.epoch_series("train", "gpu_max_cached_mem_GB")
    # ESPnet rounds it to three digits behind the point.
    return round(max(found) * 2**30) if found else None


def _flags(**values: object) -> list[str]:
    """Options of a command."""
    return [f"--{name}={value}" for name, value in values.items()]


class RecipeTraining:
    """A corpus of noise, a random checkpoint, and trainings on them.

    Args:
        options: upstream, rounds, device and type.
        directory: where all of it goes.
        seconds: length of every utterance.
        batch: utterances of a batch.
    """

    def __init__(self, options: Comparison, directory: Path, seconds: float, batch: int) -> None:
        self.options = options
        self.directory = directory
        self.batch = batch
        form = family_of(options.upstream).s3prl.key
        self.upstream = f"{form}_local"
        self.checkpoint = directory / "upstream.pt"
        save_random_checkpoint(architecture(options.upstream), form, self.checkpoint)
        batches = max(self.accum_grad(stage) for stage in STAGES)
        batches *= options.repeats + LEFT_OUT
        self._write_corpus(seconds, {"train": batches, "valid": 1})

    def accum_grad(self, stage: Stage) -> int:
        """Batches that a step of the optimiser takes."""
        return int(read_config(CONFIGS / stage.config).get("accum_grad") or 1)

    def run(self, stage: Stage) -> TrainingLog:
        """Run the training of a stage to its end.

        Raises:
            HJPruneError: it fails.
        """
        exp = self.directory / f"exp_{Path(stage.config).stem}"
        exp.mkdir()
        ngpu = 1 if self.options.device == "cuda" else 0
        sizes = _flags(batch_type="sorted", batch_size=self.batch, max_epoch=1)
        common = _flags(output_dir=exp, token_type=TOKEN_TYPE, ngpu=ngpu)
        configure = _flags(
            config=CONFIGS / stage.config,
            shape_dir=self.directory / "train",
            upstream=self.upstream,
            upstream_ckpt=self.checkpoint,
        )
        module = ["-m", "espnet_hjprune.bin.recipe.configure"]
        log = exp / "configure.log"
        self._call([*module, *common, *configure, *stage.options, "--", *sizes], log)
        train = _flags(
            config=exp / "training.yaml",
            use_preprocessor="true",
            bpemodel="none",
            token_list=self.directory / "tokens.txt",
            valid_batch_size=self.batch,
            log_interval=self.accum_grad(stage),
            use_amp=str(self.options.dtype != "float32").lower(),
        )
        for part in ("train", "valid"):
            place = self.directory / part
            for file in ("wav.scp,speech,sound", "text,text,text"):
                train.append(f"--{part}_data_path_and_name_and_type={place}/{file}")
            for file in ("speech_shape", f"text_shape.{TOKEN_TYPE}"):
                train.append(f"--{part}_shape_file={place}/{file}")
        module = ["-m", "espnet_hjprune.bin.run", "-m", "espnet2.bin.asr_train"]
        self._call([*module, *common, *train, *sizes], exp / "train.log")
        return read_training_log(exp)

    def _call(self, arguments: Iterable[str], log: Path) -> None:
        """Run Python, with as many threads as this process has."""
        path = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
        environment = os.environ | {
            "PYTHONPATH": os.pathsep.join(path),
            "OMP_NUM_THREADS": str(torch.get_num_threads()),
        }
        with log.open("w", encoding="utf-8") as file:
            ended = subprocess.run(
                [sys.executable, *arguments],
                env=environment,
                stdout=file,
                stderr=subprocess.STDOUT,
                check=False,
            )
        if ended.returncode != 0:
            lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
            last = lines[-1] if lines else "it does not say why"
            raise HJPruneError(f"the training ended with status {ended.returncode}: {last}")

    def _write_corpus(self, seconds: float, batches: dict[str, int]) -> None:
        """Write data directories, shapes and the token list.

        The batches of a set consist of the same audio files, which are few to write and as many
        to read.
        """
        generator, letters = np.random.default_rng(0), random.Random(0)
        files = []
        for number in range(self.batch):
            samples = 0.1 * generator.standard_normal(round(seconds * SAMPLE_RATE))
            files.append(self.directory / f"{number}.flac")
            write_audio(files[-1], np.clip(samples, -1, 1), SAMPLE_RATE)
        count = max(1, round(LETTERS_PER_SECOND * seconds))
        texts = {}
        for part, number in batches.items():
            keys = [f"{part}{index:06d}" for index in range(number * self.batch)]
            texts[part] = {
                key: "".join(letters.choices(string.ascii_uppercase, k=count)) for key in keys
            }
            place = self.directory / part
            place.mkdir()
            write_table(place / "text", texts[part])
            wav_scp = {key: files[index % self.batch] for index, key in enumerate(keys)}
            write_table(place / "wav.scp", wav_scp)
        tokens = self.directory / "tokens.txt"
        every_text = [text for part in texts.values() for text in part.values()]
        write_token_list(tokens, count_tokens(every_text, build_tokenizer(TOKEN_TYPE)))
        for part in batches:
            place = self.directory / part
            write_shapes(place, tokens, TOKEN_TYPE, place)
