"""Upstreams for the mini recipes that know something about speech.

A real upstream is pre-trained on unlabelled speech for days. In its place a small one is trained
for some minutes to recognise characters with CTC.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

import torch
import torch.nn.functional as F

from espnet_hjprune.atomic import replaced_file
from espnet_hjprune.checkpoint_file import read_checkpoint
from espnet_hjprune.constants import SAMPLE_RATE
from espnet_hjprune.data import audio
from espnet_hjprune.data.datadir import read_table
from espnet_hjprune.errors import HJPruneError
from espnet_hjprune.nn.encoder import SpeechEncoder
from espnet_hjprune.progress import progress_bar
from espnet_hjprune.upstream import read_upstream
from espnet_hjprune.upstream.fairseq_format import fairseq_weights
from espnet_hjprune.upstream.names import find_form
from espnet_hjprune.upstream.s3prl_form import TRUST, S3prlForm


@dataclass(frozen=True)
class PretrainConfig:
    """How an upstream is trained: AdamW, linear warm-up and decay, batches of similar length.

    The defaults suit the mini upstream and the mini corpora.

    Attributes:
        epochs: passes over the data.
        lr: learning rate at the end of the warm-up.
        warmup_steps: optimiser steps of the warm-up.
        batch_size: utterances.
        grad_clip: largest norm of all gradients together.
        seed: of the order of batches and of the layer that predicts characters.
    """

    epochs: int = 8
    lr: float = 1e-3
    warmup_steps: int = 100
    batch_size: int = 16
    grad_clip: float = 5.0
    seed: int = 0


@dataclass(frozen=True)
class _Utterance:
    """Samples, and characters as numbers from 1."""

    wave: torch.Tensor
    labels: torch.Tensor


def _read(data_dir: Path, text: str) -> tuple[list[_Utterance], int]:
    """Utterances of a data directory, and the number of different characters."""
    waves, texts = read_table(data_dir / "wav.scp"), read_table(data_dir / text)
    lacking = sorted(utt_id for utt_id in waves if not texts.get(utt_id))
    if lacking:
        raise HJPruneError(f"utterance {lacking[0]} has no words in {data_dir / text}; add them")
    numbers = {c: n for n, c in enumerate(sorted({c for t in texts.values() for c in t}), 1)}
    utterances = [
        _Utterance(
            torch.from_numpy(audio.read_mono(path, SAMPLE_RATE)),
            torch.tensor([numbers[character] for character in texts[utt_id]]),
        )
        for utt_id, path in waves.items()
    ]
    return sorted(utterances, key=lambda utterance: len(utterance.wave)), len(numbers)


def _loss(
    encoder: SpeechEncoder, head: torch.nn.Module, batch: Sequence[_Utterance]
) -> torch.Tensor:
    """CTC loss, summed over an utterance and averaged over the batch."""
    waves = torch.nn.utils.rnn.pad_sequence([u.wave for u in batch], batch_first=True)
    states, frames = encoder(waves, torch.tensor([len(u.wave) for u in batch]))
    scores = head(states[-1]).log_softmax(-1).transpose(0, 1)
    labels, lengths = torch.cat([u.labels for u in batch]), [len(u.labels) for u in batch]
    total = F.ctc_loss(
        scores, labels, frames, torch.tensor(lengths), reduction="sum", zero_infinity=True
    )
    return total / len(batch)


def pretrain(
    upstream: str,
    checkpoint: Path,
    output: Path,
    data_dir: Path,
    text: str,
    config: PretrainConfig,
) -> float:
    """Train an upstream's checkpoint and save it in the same format.

    Args:
        upstream: the s3prl upstream that reads it, such as ``wav2vec2_local``.
        checkpoint: the checkpoint to start from.
        output: the checkpoint to write.
        data_dir: a data directory; its wav.scp has plain files.
        text: the table in it that has the words.
        config: the training.

    Returns:
        The mean loss of the last epoch, in nats an utterance.

    Raises:
        HJPruneError: a file is missing or not of the upstream, or an utterance has no words.
    """
    if config.epochs < 1:
        raise HJPruneError("--epochs must be at least 1")
    form = find_form(upstream)
    if not isinstance(form, S3prlForm):
        raise HJPruneError(f"{upstream} has no checkpoint file of s3prl; name an upstream that has")
    encoder_config, state = read_upstream(upstream, str(checkpoint))
    content = read_checkpoint(checkpoint, TRUST)
    weights = content[form.weight_key]
    # What we add to some families has no place in their files.
    names = {n: t.shape for n, t in fairseq_weights(state, encoder_config).items() if n in weights}
    if any(shape != weights[name].shape for name, shape in names.items()):
        raise HJPruneError(
            f"{upstream} runs a part of what {checkpoint} holds, which cannot be trained alone; "
            "name an upstream of another family"
        )
    utterances, characters = _read(data_dir, text)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        encoder = SpeechEncoder(encoder_config)
        encoder.load_state_dict(state)
        head = torch.nn.Linear(encoder.output_size, characters + 1)
        loss = _train(encoder.train(), head, utterances, config)
    trained = fairseq_weights(encoder.state_dict(), encoder_config)
    weights.update({name: trained[name] for name in names})
    output.parent.mkdir(parents=True, exist_ok=True)
    with replaced_file(output) as partial:
        torch.save(content, partial)
    return loss


def _train(
    encoder: SpeechEncoder,
    head: torch.nn.Module,
    utterances: Sequence[_Utterance],
    config: PretrainConfig,
) -> float:
    """Train in place; return the mean loss of the last epoch, in nats an utterance."""
    random = Random(config.seed)
    parameters = [*encoder.parameters(), *head.parameters()]
    optimiser = torch.optim.AdamW(parameters, lr=config.lr, weight_decay=0.01)
    starts = list(range(0, len(utterances), config.batch_size))
    total = config.epochs * len(starts)

    def factor(step: int) -> float:
        """Share of the learning rate: a rise, then a fall to 0."""
        rise = (step + 1) / config.warmup_steps
        return min(rise, (total - step) / max(total - config.warmup_steps, 1), 1.0)

    scheduler = torch.optim.lr_scheduler.LambdaLR(optimiser, factor)
    mean = 0.0
    with progress_bar(total=total, desc="pre-training", unit="batch") as progress:
        for _ in range(config.epochs):
            random.shuffle(starts)
            losses = []
            for start in starts:
                loss = _loss(encoder, head, utterances[start : start + config.batch_size])
                optimiser.zero_grad()
                loss.backward()
                torch.nn.utils.clip_grad_norm_(parameters, config.grad_clip)
                optimiser.step()
                scheduler.step()
                losses.append(loss.item())
                progress.update()
            mean = sum(losses) / len(losses)
            progress.set_postfix_str(f"loss={mean:.3g}")
    return mean
