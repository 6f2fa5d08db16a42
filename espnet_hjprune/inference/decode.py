"""Decoding a test set in batches of utterances of similar length."""

from __future__ import annotations

import functools
import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from espnet_hjprune.constants import SAMPLE_RATE
from espnet_hjprune.data.datadir import write_table
from espnet_hjprune.data.tokens import build_detokenizer
from espnet_hjprune.inference.audio import ReadAhead, count_samples, read_batch
from espnet_hjprune.inference.batches import Batch, make_batches, make_padded_batches
from espnet_hjprune.inference.beam import BeamSearch
from espnet_hjprune.inference.best_path import best_path_search
from espnet_hjprune.inference.config import DecodeConfig
from espnet_hjprune.inference.cuda_graph import CudaGraphs
from espnet_hjprune.inference.greedy import Hypothesis, greedy_search
from espnet_hjprune.inference.model import FIRST_LABEL, Recogniser
from espnet_hjprune.inference.windows import FrameGrid, Runner, longest_whole, make_windows
from espnet_hjprune.precision import inference_dtype
from espnet_hjprune.scoring.decoding_time import DecodingTime, write_timing

# Threads that read ahead for a GPU. One reads some 3000 s of FLAC in a second (16 kHz, a core of an
# AMD EPYC), two on two cores twice as much.
WORKERS = 4
COLUMNS = ("text", "token", "token_int", "score")


@dataclass(frozen=True)
class _Audio:
    """A batch with its samples ``(rows, samples)`` and their lengths ``(rows,)``."""

    batch: Batch
    wave: torch.Tensor
    lengths: torch.Tensor


@dataclass(frozen=True)
class _Encoded:
    """What a model returned for a batch, on the CPU as soon as ``copied`` has happened."""

    audio: _Audio
    log_probs: torch.Tensor
    frames: torch.Tensor
    copied: torch.cuda.Event | None


@dataclass(frozen=True)
class Decoded:
    """Hypotheses of a batch.

    Attributes:
        names: the utterances.
        hypotheses: of each of them, the best first.
        samples: of each of them.
        time: what the batch took.
    """

    names: Sequence[str]
    hypotheses: list[list[Hypothesis]]
    samples: list[int]
    time: DecodingTime


class Decoder:
    """Decodes with one model; CUDA graphs of it serve all that it decodes.

    On a GPU the next batch is encoded while the CPU searches, and audio is read ahead.

    Args:
        model: the model; it is moved to the device and gets the type of the options.
        options: how to decode.
        device: ``cpu`` or ``cuda``.
        pads: whether batches are padded to shapes that recur; by default where they run as CUDA
            graphs.

    Raises:
        HJPruneError: the search cannot be made.
    """

    def __init__(
        self,
        model: Recogniser,
        options: DecodeConfig,
        device: str = "cpu",
        pads: bool | None = None,
    ) -> None:
        self.options = options
        self.device = torch.device(device)
        dtype = choose_dtype(options.dtype, self.device)
        logging.info("decoding in %s on %s", str(dtype).removeprefix("torch."), device)
        self.model = model.to(self.device).convert(dtype).eval()
        on_gpu = self.device.type == "cuda"
        # Gates are rounded to units on the CPU.
        has_graphs = on_gpu and options.cuda_graphs and model.upstream.pruner is None
        self.graphs = CudaGraphs(self.model) if has_graphs else None
        self.pads = has_graphs if pads is None else pads
        grid = FrameGrid.of(model.upstream.config)
        self.windows = make_windows(options, grid)
        # In samples.
        self.longest_whole = longest_whole(self.windows, grid)
        auto = WORKERS if on_gpu else 0
        self.workers = auto if options.num_workers == "auto" else options.num_workers
        self.beam: BeamSearch | None = None
        if options.search == "beam" and not model.classifies:
            self.beam = BeamSearch(model.tokens, options)
        self.detokenize = build_detokenizer(model.token_type, model.bpemodel)

    def decode(
        self, wav_scp: Mapping[str, str], data_dir: Path, output: Path, is_ark: bool = False
    ) -> None:
        """Decode utterances and write what ``asr_inference`` writes.

        These are ``<output>/<n>best_recog/{text,token,token_int,score}`` for n up to ``nbest``.
        ``<output>/timing.json`` has the wall time in which encoder or search were at work, as
        :meth:`run` counts it. Nothing is written before all is decoded.

        Args:
            wav_scp: locations of the utterances.
            data_dir: directory that may have their lengths in ``utt2num_samples``.
            output: directory to write to.
            is_ark: whether the locations are in archives of Kaldi.

        Raises:
            HJPruneError: the audio cannot be read.
        """
        tables: list[dict[str, dict[str, str]]] = [
            {column: {} for column in COLUMNS} for _ in range(self.options.nbest)
        ]
        total = DecodingTime()
        short = long = 0
        needed = self.model.upstream.config.receptive_field
        batches = self.batches(count_samples(wav_scp, data_dir, is_ark))
        for decoded in self.run(batches, wav_scp, is_ark):
            for name, hypotheses in zip(decoded.names, decoded.hypotheses, strict=True):
                for table, hypothesis in zip(tables, hypotheses, strict=False):
                    for column, value in zip(COLUMNS, self._row(hypothesis), strict=True):
                        table[column][name] = value
            total += decoded.time
            short += sum(samples < needed for samples in decoded.samples)
            long += sum(samples > self.longest_whole for samples in decoded.samples)
            logging.info(
                "decoded %d utterances in %.3f s", len(decoded.names), decoded.time.compute
            )
        if short:
            logging.warning(
                "%d of %d utterances have less than %d samples, which a frame needs; their text is "
                "empty",
                short,
                total.utterances,
                needed,
            )
        if long:
            logging.warning(
                "%d of %d utterances have more than %g s and were read in windows "
                "(--window_seconds, --overlap_seconds)",
                long,
                total.utterances,
                self.options.window_seconds,
            )
        for number, table in enumerate(tables, 1):
            for column in COLUMNS:
                write_table(output / f"{number}best_recog" / column, table[column])
        write_timing(output, total)

    def batches(self, counts: Mapping[str, int]) -> list[Batch]:
        """Batches of utterances with so many samples."""
        if self.pads:
            config = self.model.upstream.config
            seconds = self.options.batch_seconds
            return make_padded_batches(counts, seconds, config, self.longest_whole)
        return make_batches(counts, self.options.batch_seconds, self.longest_whole)

    @torch.inference_mode()
    def run(
        self, batches: Sequence[Batch], wav_scp: Mapping[str, str], is_ark: bool = False
    ) -> Iterator[Decoded]:
        """Decode batches.

        Their times add up to the wall time in which some batch was between its audio and its
        hypotheses. Where one is encoded while another is searched, that time counts once. Time in
        which all waited for audio does not count, and audio is only waited for when no batch is at
        work. Capturing CUDA graphs counts.

        Args:
            batches: what :meth:`batches` makes.
            wav_scp: locations of the utterances.
            is_ark: whether they are in archives of Kaldi.

        Raises:
            HJPruneError: the audio cannot be read.
        """
        tasks = [functools.partial(self._read, batch, wav_scp, is_ark) for batch in batches]
        encoded: _Encoded | None = None
        begin = 0.0

        def finish(encoded: _Encoded) -> Decoded:
            nonlocal begin
            hypotheses = self._search(encoded)
            end = time.perf_counter()
            seconds, begin = end - begin, end
            names = encoded.audio.batch.names
            samples = encoded.audio.lengths[: len(names)].tolist()
            duration = DecodingTime(len(names), seconds, sum(samples) / SAMPLE_RATE)
            return Decoded(names, hypotheses, samples, duration)

        with ReadAhead(tasks, self.workers) as ahead:
            while True:
                if encoded is not None and not ahead.is_ready:
                    yield finish(encoded)
                    encoded = None
                audio = next(ahead, None)
                if audio is None:
                    return
                if encoded is None:
                    begin = time.perf_counter()
                following = self._encode(audio)
                if encoded is not None:
                    yield finish(encoded)
                encoded = following

    def _read(self, batch: Batch, wav_scp: Mapping[str, str], is_ark: bool) -> _Audio:
        locations = [wav_scp[name] for name in batch.names]
        pin = self.device.type == "cuda"
        return _Audio(batch, *read_batch(locations, is_ark, batch.shape, pin))

    def _encode(self, audio: _Audio) -> _Encoded:
        """Start the model; on a GPU its results come later."""
        rows = len(audio.batch.names)
        fixed = audio.batch.shape == tuple(audio.wave.shape)
        run: Runner = self.graphs if self.graphs is not None and fixed else self.model
        if int(audio.lengths[:rows].max()) > self.longest_whole:
            run = functools.partial(self.model, windows=self.windows)
        inputs = (x.to(self.device, non_blocking=True) for x in (audio.wave, audio.lengths))
        log_probs, frames = (x[:rows] for x in run(*inputs))
        if self.device.type == "cpu":
            return _Encoded(audio, log_probs, frames, None)
        log_probs, frames = (_copy_to_host(x) for x in (log_probs, frames))
        copied = torch.cuda.Event()
        copied.record()
        return _Encoded(audio, log_probs, frames, copied)

    def _search(self, encoded: _Encoded) -> list[list[Hypothesis]]:
        if encoded.copied is not None:
            encoded.copied.synchronize()
        log_probs, frames = encoded.log_probs, encoded.frames
        if not self.model.classifies:
            # Fixed shapes have frames that no utterance has.
            log_probs = log_probs[:, : int(frames.max())]
        best_path = self.options.search == "best_path"
        return search(self.model, log_probs, frames, encoded.audio.lengths, self.beam, best_path)

    def _row(self, hypothesis: Hypothesis) -> tuple[str, ...]:
        """The columns of a hypothesis."""
        tokens = [self.model.tokens[number] for number in hypothesis.tokens]
        words = hypothesis.words
        return (
            self.detokenize(tokens) if words is None else " ".join(words),
            " ".join(tokens),
            " ".join(map(str, hypothesis.tokens)),
            # As ESPnet's decoding prints a tensor.
            str(torch.tensor(hypothesis.score)),
        )


def choose_dtype(option: str, device: torch.device) -> torch.dtype:
    """The type that weights get; ``option`` is one of :data:`.config.DTYPES`."""
    found: torch.dtype = inference_dtype(device) if option == "auto" else getattr(torch, option)
    return found


def _copy_to_host(x: torch.Tensor) -> torch.Tensor:
    """A copy that a GPU makes by itself, after what it has to do before."""
    return torch.empty(x.shape, dtype=x.dtype, pin_memory=True).copy_(x, non_blocking=True)


def search(
    model: Recogniser,
    log_probs: torch.Tensor,
    frames: torch.Tensor,
    lengths: torch.Tensor,
    beam: BeamSearch | None = None,
    best_path: bool = False,
) -> list[list[Hypothesis]]:
    """Hypotheses of every utterance, the best first, from what the model returns.

    A CTC model is searched by ``beam``, along its ``best_path``, or greedily. Utterances whose
    ``lengths`` in samples give no frame get a hypothesis without tokens, as the model has read
    nothing but padding beside them. ``lengths`` may go on with rows of padding.
    """
    if model.classifies:
        score, label = log_probs.max(-1)
        pairs = zip(label.tolist(), score.tolist(), strict=True)
        found = [[Hypothesis([number + FIRST_LABEL], value)] for number, value in pairs]
    elif beam is not None:
        found = beam(log_probs, frames)
    elif best_path:
        found = [[best] for best in best_path_search(log_probs.cpu(), frames.cpu())]
    else:
        # The search is many small steps, for which a GPU is too far away.
        found = [[best] for best in greedy_search(log_probs.cpu(), frames.cpu())]
    needed = model.upstream.config.receptive_field
    return [
        hypotheses if length >= needed else [Hypothesis([], 0.0)]
        for hypotheses, length in zip(found, lengths.tolist(), strict=False)
    ]
