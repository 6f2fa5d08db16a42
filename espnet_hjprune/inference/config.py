"""Options of batched decoding."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from espnet_hjprune.errors import HJPruneError

SEARCHES = ("greedy", "best_path", "beam")
DTYPES = ("auto", "float32", "bfloat16", "float16")


@dataclass
class DecodeConfig:
    """How batches are made and searched.

    Attributes:
        search: ``greedy`` for the most likely next token as ESPnet finds it, ``best_path`` for the
            most likely token of every frame as other runtimes do, or ``beam``; classifiers take the
            most likely label whatever it is.
        batch_seconds: audio in a batch, padding included.
        window_seconds: audio that the Transformer attends to at once, as memory and time grow with
            its square; longer utterances are read in windows of that. 0 reads all of them whole.
        overlap_seconds: audio that a window shares with the next; of what one sees of it, the outer
            half is thrown away.
        dtype: type of weights and activations; ``auto`` is ``float32`` on the CPU, and on a GPU
            ``bfloat16`` or, where it has none, ``float16``. Log probabilities are in ``float32``.
        cuda_graphs: on a GPU, pad batches to shapes that recur and run those as CUDA graphs; on
            the CPU it does nothing.
        num_workers: threads that read the audio of the next batches; ``auto`` is as many as
            :data:`.decode.WORKERS` on a GPU. With 0, as on the CPU, audio is read when it is
            needed.
        nbest: hypotheses to write; for ``beam`` only, like all that follows.
        beam_size: hypotheses that are kept.
        beam_size_token: most likely tokens of a frame that are tried; 0 for all.
        beam_threshold: log probability below the best at which a hypothesis is dropped.
        ngram: language model, ARPA or KenLM's binary format: of words with a lexicon, of tokens
            without.
        lexicon: ``word token token ...`` lines; only these words are found.
        lm_weight: weight of the language model.
        word_score: added for every word, with a lexicon.
    """

    search: str = "greedy"
    batch_seconds: float = 160.0
    window_seconds: float = 60.0
    overlap_seconds: float = 10.0
    dtype: str = "auto"
    cuda_graphs: bool = True
    num_workers: int | Literal["auto"] = "auto"
    nbest: int = 1
    beam_size: int = 10
    beam_size_token: int = 0
    beam_threshold: float = 50.0
    ngram: str = ""
    lexicon: str = ""
    lm_weight: float = 0.5
    word_score: float = 0.0

    def __post_init__(self) -> None:
        """Check every option."""
        for name, known in (("search", SEARCHES), ("dtype", DTYPES)):
            if getattr(self, name) not in known:
                raise HJPruneError(
                    f"{name} is {getattr(self, name)}; it is one of {', '.join(known)}"
                )
        # The command line has texts.
        switch = str(self.cuda_graphs).lower()
        if switch not in ("true", "false"):
            raise HJPruneError(f"cuda_graphs is {self.cuda_graphs}; it is true or false")
        self.cuda_graphs = switch == "true"
        for name in ("batch_seconds", "nbest", "beam_size", "beam_threshold"):
            if getattr(self, name) <= 0:
                raise HJPruneError(f"{name} is {getattr(self, name)}; it must be positive")
        for name in ("window_seconds", "overlap_seconds"):
            if getattr(self, name) < 0:
                raise HJPruneError(f"{name} is {getattr(self, name)}; it is 0 or more")
        if 0 < self.window_seconds <= self.overlap_seconds:
            raise HJPruneError(
                f"overlap_seconds is {self.overlap_seconds:g}; it must be less than "
                f"window_seconds, {self.window_seconds:g}"
            )
        if self.num_workers != "auto" and self.num_workers < 0:
            raise HJPruneError(f"num_workers is {self.num_workers}; it is 0 or more, or auto")
        if self.beam_size_token < 0:
            raise HJPruneError(f"beam_size_token is {self.beam_size_token}; it is 0 for all tokens")
        if self.search != "beam" and (self.nbest > 1 or self.ngram or self.lexicon):
            raise HJPruneError("nbest, ngram and lexicon need search: beam")
        if self.nbest > self.beam_size:
            raise HJPruneError(f"nbest is {self.nbest}, more than the beam_size {self.beam_size}")
