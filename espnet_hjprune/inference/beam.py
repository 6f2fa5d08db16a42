"""CTC beam search with an optional n-gram, by torchaudio's decoder (flashlight)."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch

from espnet_hjprune.data.tokens import SPACE, UNKNOWN
from espnet_hjprune.errors import HJPruneError
from espnet_hjprune.inference.config import DecodeConfig
from espnet_hjprune.inference.greedy import BLANK, Hypothesis


class BeamSearch:
    """Beam search over the frames of each utterance of a batch.

    Args:
        tokens: the token list, ``<blank>`` first and ``<sos/eos>`` last.
        options: how to search.

    Raises:
        HJPruneError: a file or a package is missing, or the lexicon has other tokens.
    """

    def __init__(self, tokens: Sequence[str], options: DecodeConfig) -> None:
        # Between words; without such a token a blank stands there.
        self.space = SPACE if SPACE in tokens else tokens[BLANK]
        self.space_number = tokens.index(self.space)
        for name in ("ngram", "lexicon"):
            path = getattr(options, name)
            if path and not Path(path).is_file():
                raise HJPruneError(f"the file {path} (--{name}) does not exist")
        try:
            from torchaudio.models.decoder import ctc_decoder
        except ImportError as error:
            raise HJPruneError(
                f"search: beam needs torchaudio and flashlight-text ({error}); install them, or "
                "use search: greedy"
            ) from error
        if options.ngram:
            _check_kenlm()
        lexicon = options.lexicon or None
        self.has_lexicon = lexicon is not None
        if lexicon:
            _check_lexicon(lexicon, tokens)
        try:
            with tempfile.TemporaryDirectory() as directory:
                # Without this file torchaudio numbers the tokens of an n-gram in another order.
                token_file = Path(directory) / "tokens"
                token_file.write_text("\n".join(tokens), encoding="utf-8")
                self.decoder = ctc_decoder(
                    lexicon=lexicon,
                    tokens=list(tokens),
                    lm=options.ngram or None,
                    lm_dict=None if lexicon else str(token_file),
                    nbest=options.nbest,
                    beam_size=options.beam_size,
                    beam_size_token=options.beam_size_token or None,
                    beam_threshold=options.beam_threshold,
                    lm_weight=options.lm_weight,
                    word_score=options.word_score,
                    log_add=True,
                    blank_token=tokens[BLANK],
                    sil_token=self.space,
                    unk_word=UNKNOWN,
                )
        except Exception as error:
            raise HJPruneError(
                f"the beam search cannot be made: {' '.join(str(error).split())[:200]}; check "
                "--ngram and --lexicon"
            ) from error

    def __call__(self, log_probs: torch.Tensor, frames: torch.Tensor) -> list[list[Hypothesis]]:
        """Search ``(batch, time, token)`` with ``(batch,)`` valid frames.

        Returns:
            Of every utterance one to ``nbest`` hypotheses, the best first; an empty one where
            nothing was found.
        """
        log_probs = log_probs.float().cpu().clone()
        log_probs[..., -1] = -1e10
        found = self.decoder(log_probs, frames.cpu())
        nothing = [Hypothesis([], float("-inf"))]
        return [
            [self._convert(h.tokens.tolist(), h.words, h.score) for h in hs] or nothing
            for hs in found
        ]

    def _convert(self, tokens: list[int], words: list[str], score: float) -> Hypothesis:
        """A hypothesis without the spaces that the decoder puts around it."""
        while tokens and tokens[0] == self.space_number:
            tokens = tokens[1:]
        while tokens and tokens[-1] == self.space_number:
            tokens = tokens[:-1]
        return Hypothesis(tokens, score, list(words) if self.has_lexicon else None)


def _check_kenlm() -> None:
    """Flashlight reads n-grams by the package kenlm, which is compiled where it is installed."""
    try:
        from flashlight.lib.text.decoder.kenlm import KenLM  # noqa: F401
    except ImportError as error:
        raise HJPruneError("--ngram needs the package kenlm; install it") from error


def _check_lexicon(path: str, tokens: Sequence[str]) -> None:
    """Refuse a lexicon that spells words in other tokens."""
    known = set(tokens)
    with Path(path).open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            word, *spelling = line.split() or [""]
            unknown = [token for token in spelling if token not in known]
            if not spelling:
                raise HJPruneError(f"{path}:{number} is no `word token token ...` line")
            if unknown:
                raise HJPruneError(
                    f"{path}:{number} spells {word} with {unknown[0]}, which is no token here"
                )
