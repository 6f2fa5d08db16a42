"""How far an exported model is from the one it was made of."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from espnet_hjprune.data.datadir import read_table
from espnet_hjprune.data.tokens import build_detokenizer
from espnet_hjprune.errors import HJPruneError
from espnet_hjprune.export.graphs import example
from espnet_hjprune.inference.audio import count_samples, read_batch
from espnet_hjprune.inference.batches import make_batches
from espnet_hjprune.inference.config import DecodeConfig
from espnet_hjprune.inference.decode import search
from espnet_hjprune.inference.model import BatchInvariantModel, Recogniser
from espnet_hjprune.inference.windows import FrameGrid, Runner, longest_whole, make_windows
from espnet_hjprune.progress import progress_bar
from espnet_hjprune.scoring.case import fold_case

# Largest difference of a float32 model's output.
TOLERANCE = 1e-4


@dataclass(frozen=True)
class WordErrors:
    """Word error rates in percent on the utterances of a data directory."""

    data_dir: str
    utterances: int
    before: float
    after: float

    def as_dict(self) -> dict[str, Any]:
        """As ``export.json`` has it."""
        return asdict(self) | {"difference": self.after - self.before}


@torch.no_grad()
def largest_difference(
    model: BatchInvariantModel, exported: Runner, reads_short: bool = True
) -> float:
    """Largest difference of the outputs on valid frames.

    They are those of a padded batch, of an utterance alone, and, where the exported model
    ``reads_short`` ones, of some alone that have one frame or not even that.

    Raises:
        HJPruneError: the exported model counts frames in another way.
    """
    worst = 0.0
    wave, lengths = example(model.upstream, seed=1)
    batches = [(wave, lengths), (wave[:1], lengths[:1])]
    for samples in (model.upstream.config.receptive_field, 1, 0) if reads_short else ():
        batches.append((wave[:1, :samples], torch.tensor([samples])))
    for batch in batches:
        expected, frames = model(*batch)
        found, found_frames = exported(*batch)
        if not torch.equal(frames, found_frames) or expected.shape != found.shape:
            raise HJPruneError("the exported model gives other frames; report this as a bug")
        difference = (expected - found).abs()
        if difference.dim() == 3:
            inside = torch.arange(expected.shape[1]) < frames.unsqueeze(1)
            difference = difference[inside]
        if not difference.isfinite().all():
            raise HJPruneError("the exported model gives no numbers; report this as a bug")
        worst = max(worst, difference.max().item())
    return worst


def word_errors(model: Recogniser, exported: Runner, data_dir: Path) -> WordErrors:
    """Decode a data directory with the model and with the exported one.

    Args:
        model: the model.
        exported: what was made of it.
        data_dir: directory with ``wav.scp`` and ``text``.

    Raises:
        HJPruneError: a file is missing, or an utterance lacks a transcript.
    """
    import jiwer

    wav_scp, text = (read_table(data_dir / name) for name in ("wav.scp", "text"))
    untold = sorted(wav_scp.keys() - text.keys())
    if untold:
        raise HJPruneError(f"utterance {untold[0]} of {data_dir}/wav.scp is not in its text")
    kind = data_dir / "audio_format"
    is_ark = kind.is_file() and kind.read_text().strip().endswith("ark")
    counts = count_samples(wav_scp, data_dir, is_ark)
    options, grid = DecodeConfig(), FrameGrid.of(model.upstream.config)
    windows = make_windows(options, grid)
    batches = make_batches(counts, options.batch_seconds, longest_whole(windows, grid))
    detokenize = build_detokenizer(model.token_type, model.bpemodel)
    found: list[dict[str, str]] = [{}, {}]
    runners: tuple[Runner, Runner] = (partial(model, windows=windows), exported)
    with torch.inference_mode(), progress_bar(total=len(wav_scp), unit="utt") as progress:
        for batch in batches:
            wave, lengths = read_batch([wav_scp[name] for name in batch.names], is_ark)
            for texts, run in zip(found, runners, strict=True):
                results = search(model, *run(wave, lengths), lengths)
                for name, (best, *_) in zip(batch.names, results, strict=True):
                    texts[name] = detokenize([model.tokens[number] for number in best.tokens])
            progress.update(len(batch.names))
    names = sorted(wav_scp)
    reference = [fold_case(text[name]) for name in names]
    before, after = (
        100 * jiwer.wer(reference, [fold_case(texts[name]) for name in names]) for texts in found
    )
    return WordErrors(str(data_dir), len(names), before, after)
