"""Tokens of a text as ESPnet splits it, and token lists in ESPnet's order.

ESPnet's own tokenizer modules take long to import and look for language data on the way, so the
three splittings that the recipes use are repeated here; a test compares them.
"""

from __future__ import annotations

import io
import logging
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from espnet_hjprune.atomic import replaced_file, write_text
from espnet_hjprune.constants import BLANK, SOS_EOS, SPACE, UNKNOWN
from espnet_hjprune.data.datadir import read_table
from espnet_hjprune.errors import HJPruneError

if TYPE_CHECKING:
    import sentencepiece

TOKEN_TYPES = ("char", "bpe", "word")

# sentencepiece's space and its mark of unknown characters: it reads the one as a space, and leaves
# out texts with the other.
_RESERVED = re.compile("[\u2581\u2585]")
# Bytes of a text above which sentencepiece leaves it out, unless told otherwise.
_MAX_SENTENCE = 4192

Tokenizer = Callable[[str], list[str]]
Detokenizer = Callable[[Sequence[str]], str]


def build_tokenizer(token_type: str, bpemodel: str | Path | None = None) -> Tokenizer:
    """Return the function that splits a text.

    Args:
        token_type: one of :data:`TOKEN_TYPES`.
        bpemodel: the sentencepiece model; for ``bpe`` only.

    Raises:
        HJPruneError: an unknown type, or the model is missing or is none.

    Example:
        >>> build_tokenizer("char")("AN I")
        ['A', 'N', '<space>', 'I']
    """
    if token_type == "char":
        return lambda text: [SPACE if character == " " else character for character in text]
    if token_type == "word":
        return str.split
    pieces: Tokenizer = _load_bpe(token_type, bpemodel).encode_as_pieces
    return pieces


def build_detokenizer(token_type: str, bpemodel: str | Path | None = None) -> Detokenizer:
    """Return the function that joins tokens to a text.

    Raises:
        HJPruneError: as :func:`build_tokenizer`.
    """
    if token_type == "char":
        return lambda tokens: "".join(" " if token == SPACE else token for token in tokens)
    if token_type == "word":
        return " ".join
    model = _load_bpe(token_type, bpemodel)
    return lambda tokens: model.decode_pieces(list(tokens))


def _load_bpe(token_type: str, bpemodel: str | Path | None) -> sentencepiece.SentencePieceProcessor:
    """Load the model of ``bpe``, the one token type that has one."""
    if token_type != "bpe":
        raise HJPruneError(
            f"the token type {token_type!r} is unknown; it is {', '.join(TOKEN_TYPES)}"
        )
    if bpemodel is None or not Path(bpemodel).is_file():
        raise HJPruneError(
            f"the sentencepiece model {bpemodel} does not exist; give --bpemodel, or run stage 2"
        )
    # Imported here: only this token type pays for it.
    import sentencepiece

    model = sentencepiece.SentencePieceProcessor()
    try:
        model.load(str(bpemodel))
    except (RuntimeError, OSError):
        raise HJPruneError(
            f"{bpemodel} is no sentencepiece model; give another --bpemodel, or run stage 2 again"
        ) from None
    return model


def read_texts(path: str | Path) -> list[str]:
    """The transcripts of a ``text`` table.

    Raises:
        HJPruneError: the table is missing or has no utterance, or an utterance has no transcript.
    """
    table = read_table(path)
    if not table:
        raise HJPruneError(f"{path} is empty; prepare the data again")
    for utt_id, text in table.items():
        if not text:
            raise HJPruneError(f"utterance {utt_id} of {path} has no transcript; add or remove it")
    return list(table.values())


def check_meaning(tokens: Iterable[Sequence[str]], source: str | Path) -> None:
    """Make sure that no word of a text means something else as a token.

    ``<unk>`` does what it says, and is mentioned in a warning.

    Args:
        tokens: of the transcripts.
        source: their file.

    Raises:
        HJPruneError: a transcript has CTC's blank, or the mark of its end, among its tokens.
    """
    counts = Counter(token for line in tokens for token in line)
    for token in (BLANK, SOS_EOS):
        if counts[token]:
            raise HJPruneError(
                f"{source} has {token} {counts[token]} times as a word, which has another meaning "
                "to the model; remove it"
            )
    if counts[UNKNOWN]:
        logging.warning(
            "%s has %s %d times as a word; it is trained and recognised like words that are not "
            "in the token list",
            source,
            UNKNOWN,
            counts[UNKNOWN],
        )


def count_tokens(texts: Iterable[str], tokenizer: Tokenizer) -> list[str]:
    """All tokens of the texts, the most frequent first."""
    counts = Counter(token for text in texts for token in tokenizer(text))
    return sorted(counts, key=lambda token: (-counts[token], token))


def train_bpe(texts: Sequence[str], prefix: str | Path, size: int, mode: str) -> list[str]:
    """Train a sentencepiece model, write ``<prefix>.model`` and return its pieces in order.

    The model takes characters as they are, without Unicode's NFKC, because transcripts are scored
    as they are too. Texts of any length count.

    Args:
        texts: the training text.
        prefix: path without ``.model``.
        size: number of pieces, sentencepiece's three control pieces included.
        mode: ``unigram`` or ``bpe``.

    Raises:
        HJPruneError: the text does not allow for that many pieces, or has a character that
            sentencepiece needs for itself.
    """
    import sentencepiece

    for text in texts:
        reserved = _RESERVED.search(text)
        if reserved:
            raise HJPruneError(
                f"the transcript '{text[:40]}' has U+{ord(reserved[0]):04X}, which sentencepiece "
                "needs for itself; replace it, or give --token_type char"
            )
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(texts),
            model_writer=model,
            vocab_size=size,
            model_type=mode,
            character_coverage=1.0,
            # Not <unk>, <s> and </s>, which may be words of the text.
            unk_piece="\u2585",
            bos_piece="\u2585s",
            eos_piece="\u2585/s",
            normalization_rule_name="identity",
            max_sentence_length=max(_MAX_SENTENCE, *(len(text.encode()) for text in texts)),
            minloglevel=2,
        )
    except RuntimeError as error:
        # The message begins with sentencepiece's source line and the failed check, and may end with
        # an option that is not ours.
        reason = str(error).split("] ")[-1].split(" or decrease ")[0]
        raise HJPruneError(
            f"sentencepiece cannot make --nbpe {size} pieces of this text: {reason}"
        ) from None
    path = Path(f"{prefix}.model")
    path.parent.mkdir(parents=True, exist_ok=True)
    with replaced_file(path) as partial:
        partial.write_bytes(model.getvalue())
    processor = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    return [
        processor.id_to_piece(index)
        for index in range(processor.get_piece_size())
        if not (processor.is_control(index) or processor.is_unknown(index))
    ]


def write_token_list(path: str | Path, tokens: Iterable[str]) -> int:
    """Write ``<blank>``, ``<unk>``, the tokens and ``<sos/eos>``; return the number of lines.

    What is among the tokens too is not written a second time.
    """
    special = (BLANK, UNKNOWN, SOS_EOS)
    lines = [BLANK, UNKNOWN, *(token for token in tokens if token not in special), SOS_EOS]
    write_text(path, "".join(f"{line}\n" for line in lines))
    return len(lines)


def check_vocabulary(tokens: Iterable[str], vocabulary: Collection[str], source: str) -> None:
    """Check that a vocabulary has all tokens of a text.

    Args:
        tokens: those of the text.
        vocabulary: those that there are.
        source: where the vocabulary is from, for the message.

    Raises:
        HJPruneError: some are missing; the message says whether it has them in the other case.
    """
    missing = [token for token in tokens if token not in vocabulary]
    if not missing:
        return
    turned = {"upper": str.upper, "lower": str.lower}
    cases = [c for c, turn in turned.items() if any(turn(m) in vocabulary for m in missing)]
    hint = f"it has letters in {cases[0]} case: write the text so" if cases else "correct the text"
    raise HJPruneError(
        f"the vocabulary of {source} lacks {len(missing)} tokens of the text, such as "
        f"{' '.join(missing[:10])}; {hint}, or set init_ctc: false"
    )


def read_token_list(path: str | Path) -> list[str]:
    """The lines of a token list.

    Raises:
        HJPruneError: the file is missing or lacks ``<blank>``, ``<unk>`` or ``<sos/eos>``.
    """
    try:
        tokens = Path(path).read_text(encoding="utf-8").split("\n")[:-1]
    except FileNotFoundError:
        raise HJPruneError(f"{path} does not exist; run stage 2 first") from None
    if len(tokens) < 3 or [*tokens[:2], tokens[-1]] != [BLANK, UNKNOWN, SOS_EOS]:
        raise HJPruneError(
            f"{path} does not begin with {BLANK} {UNKNOWN} and end with {SOS_EOS}; make it again"
        )
    return tokens
