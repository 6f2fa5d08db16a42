"""The CTC layer and the vocabulary of a fine-tuned checkpoint of Hugging Face, in ESPnet's order.

ESPnet's lists begin with the blank, which is the padding token of transformers, and the unknown
token, and end with ``<sos/eos>``; the word delimiter is ``<space>``. All else keeps its order and
its name, also tokens such as ``<s>``, without whose rows the probabilities would be others.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import torch

from espnet_hjprune.constants import BLANK, SOS_EOS, SPACE, UNKNOWN
from espnet_hjprune.errors import HJPruneError
from espnet_hjprune.upstream.huggingface_form import HuggingFaceForm, import_transformers
from espnet_hjprune.upstream.names import find_form

# Logit of a token that the checkpoint lacks, such as <sos/eos>: a share of under 1e-30 beside the
# logits that models have, which float16 holds too, and from which it can still be trained.
ABSENT_LOGIT = -100.0


@dataclass(frozen=True)
class Vocabulary:
    """Tokens in ESPnet's order.

    Attributes:
        tokens: the token list.
        rows: of each token in the checkpoint's CTC layer; ``None`` for one that it lacks.
    """

    tokens: list[str]
    rows: list[int | None]


@dataclass(frozen=True)
class CTCHead:
    """A CTC layer in ESPnet's order.

    Attributes:
        tokens: the token list.
        weight: ``(tokens, width)``.
        bias: ``(tokens,)``.
    """

    tokens: list[str]
    weight: torch.Tensor
    bias: torch.Tensor


def read_vocabulary(path: str, download_dir: str | None = None) -> Vocabulary:
    """Read the vocabulary of a fine-tuned checkpoint.

    Rows of the layer without a token are called ``<unused0>``, with the row's number.

    Args:
        path: a directory, or a hub name.
        download_dir: where downloads are kept; ``None`` for the usual place.

    Raises:
        HJPruneError: it has no CTC layer or no vocabulary, or two tokens would have one name.

    Example:
        >>> read_vocabulary("wav2vec2-base-960h").tokens[:5]
        ['<blank>', '<unk>', '<s>', '</s>', '<space>']
    """
    transformers = import_transformers()
    try:
        config = transformers.AutoConfig.from_pretrained(
            path, cache_dir=download_dir, trust_remote_code=False
        )
        tokenizer = transformers.Wav2Vec2CTCTokenizer.from_pretrained(path, cache_dir=download_dir)
        tokens = {row: token for token, row in tokenizer.get_vocab().items() if row >= 0}
    except Exception as error:
        # transformers reports broken files through whatever its readers stumble over.
        reason = " ".join(str(error).split())[:300]
        raise HJPruneError(
            f"the vocabulary of {path} cannot be read ({reason}); give a directory with "
            "config.json and vocab.json, or set init_ctc: false"
        ) from error
    if not any(str(name).endswith("ForCTC") for name in config.architectures or []):
        raise HJPruneError(
            f"{path} was not fine-tuned with CTC, so that it has no layer to take over; set "
            "init_ctc: false"
        )
    special = {
        tokenizer.unk_token: UNKNOWN,
        tokenizer.word_delimiter_token: SPACE,
        tokens.get(config.pad_token_id): BLANK,
    }
    names = [
        special.get(tokens[row], tokens[row]) if row in tokens else f"<unused{row}>"
        for row in range(config.vocab_size)
    ]
    double = [name for name, count in Counter(names).items() if count > 1]
    if double or BLANK not in names:
        problem = f"two tokens that ESPnet calls {double[0]}" if double else "no padding token"
        raise HJPruneError(f"the vocabulary of {path} has {problem}; set init_ctc: false")
    rows = {name: row for row, name in enumerate(names)}
    others = [name for name in names if name not in (BLANK, UNKNOWN, SOS_EOS)]
    ordered = [BLANK, UNKNOWN, *others, SOS_EOS]
    return Vocabulary(ordered, [rows.get(token) for token in ordered])


def read_ctc_head(upstream: str, path: str, download_dir: str | None = None) -> CTCHead:
    """Read the CTC layer of a fine-tuned checkpoint.

    Args:
        upstream: its name, such as ``hf_wav2vec2_custom``.
        path: a directory, or a hub name.
        download_dir: where downloads are kept; ``None`` for the usual place.

    Raises:
        HJPruneError: as :func:`read_vocabulary`, or the upstream is none of Hugging Face.
    """
    form = find_form(upstream)
    if not isinstance(form, HuggingFaceForm):
        raise HJPruneError(f"{upstream} has no CTC layer; set init_ctc: false")
    vocabulary = read_vocabulary(path, download_dir)
    _, model, _ = form.load_theirs(path, "AutoModelForCTC", download_dir)
    weight, bias = model.lm_head.weight.detach(), model.lm_head.bias.detach()
    rows = [row for row in vocabulary.rows if row is not None]
    there = torch.tensor([row is not None for row in vocabulary.rows])
    own_weight = torch.zeros(len(there), weight.shape[1])
    own_bias = torch.full((len(there),), ABSENT_LOGIT)
    own_weight[there] = weight[rows]
    own_bias[there] = bias[rows]
    return CTCHead(vocabulary.tokens, own_weight, own_bias)
