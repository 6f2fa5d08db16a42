"""Directories that transformers, ``torch.hub`` and s3prl load without this package."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from espnet_hjprune.constants import BLANK, SOS_EOS, SPACE, UNKNOWN
from espnet_hjprune.export.graphs import FeatureModel, check_compact
from espnet_hjprune.export.model_card import model_card
from espnet_hjprune.export.standalone_state import standalone_architecture, standalone_state
from espnet_hjprune.export.stock import build_stock, load_stock
from espnet_hjprune.inference.model import FIRST_LABEL, BatchInvariantModel, Recogniser
from espnet_hjprune.inference.windows import Runner
from espnet_hjprune.upstream.huggingface_form import import_transformers

STANDALONE = Path(__file__).with_name("standalone")
# The space between words in a vocabulary of characters. Transformers 5 takes no other.
DELIMITER = "|"
# The same where that is a token of the model: a character that is for private use.
PRIVATE_SPACE = "\ue000"
# The class of `auto_map` that loads a model, by what it is.
ENCODER, CTC, CLASSIFIER = "AutoModel", "AutoModelForCTC", "AutoModelForAudioClassification"


def export_huggingface(
    model: BatchInvariantModel, directory: Path, model_dir: Path, stock: bool = False
) -> Runner:
    """Write a model as a directory of Hugging Face, with its code.

    The directory has ``config.json``, ``model.safetensors``, the model's code, the processor with
    the vocabulary, ``hubconf.py`` for s3prl, and a model card.

    Args:
        model: a ``Recogniser`` or ``FeatureModel`` without gates.
        directory: an empty one.
        model_dir: where the model is from; its ``results.json`` goes into the card.
        stock: write it for the classes of transformers itself, without code; the model must be
            uniform.

    Returns:
        What transformers loads from the directory, as a function of a padded batch and its
        lengths.

    Raises:
        HJPruneError: transformers is missing, the model has gates, or no stock class can hold it.
    """
    check_compact(model)
    transformers = import_transformers()
    auto_class = _auto_class(model)
    with _quiet(transformers):
        theirs = build_stock(transformers, model) if stock else _build(model, auto_class)
        # In one file, which hubconf.py reads.
        theirs.save_pretrained(directory, max_shard_size="1TB")
        _save_processor(transformers, model, directory, stock)
        if not stock:
            _write_code(directory, auto_class)
        card = model_card(model, auto_class, model_dir, stock)
        (directory / "README.md").write_text(card, encoding="utf-8")
        if stock:
            return load_stock(transformers, directory, model)
        return load_exported_directory(directory, auto_class)


def load_exported_directory(directory: Path, auto_class: str) -> Runner:
    """Let transformers load a directory, and its code with it.

    Args:
        directory: what :func:`export_huggingface` has written.
        auto_class: such as ``AutoModelForCTC``.

    Returns:
        From a padded batch ``(batch, samples)`` and its lengths to features, log probabilities of
        tokens or those of labels, and the valid frames.
    """
    transformers = import_transformers()
    model = getattr(transformers, auto_class).from_pretrained(directory, trust_remote_code=True)
    model.eval()

    def run(wave: torch.Tensor, lengths: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        mask = (torch.arange(wave.shape[1]) < lengths.unsqueeze(1)).long()
        with torch.no_grad():
            output = model(wave, attention_mask=mask, output_hidden_states=True)
            base = getattr(model, "hj_prune", model)
            frames = base.frames(lengths) * model.config.tile_factor
            if auto_class == ENCODER:
                return base.features(output.hidden_states), frames
            return output.logits.log_softmax(-1, dtype=torch.float32), frames

    return run


def _auto_class(model: BatchInvariantModel) -> str:
    if isinstance(model, FeatureModel):
        return ENCODER
    assert isinstance(model, Recogniser)
    return CLASSIFIER if model.classifies else CTC


def _build(model: BatchInvariantModel, auto_class: str) -> Any:
    """The model as the class of ours that transformers will find in the directory."""
    # Imported here: it needs transformers.
    from espnet_hjprune.export.standalone import modeling_hj_prune as classes
    from espnet_hjprune.export.standalone.configuration_hj_prune import HJPruneConfig

    upstream = model.upstream
    options: dict[str, Any] = {
        "architecture": standalone_architecture(upstream.encoder),
        "layer": upstream.layer,
        "multilayer_feature": upstream.layer_weights is not None,
        "tile_factor": upstream.options.tile_factor,
    }
    state = {f"encoder.{n}": t for n, t in standalone_state(upstream.encoder).items()}
    if upstream.layer_weights is not None:
        state["layer_weights"] = upstream.layer_weights.detach()
    if not isinstance(model, Recogniser):
        theirs: Any = classes.HJPruneModel(HJPruneConfig(**options))
        theirs.load_state_dict(state)
        return theirs
    state = {f"hj_prune.{name}": tensor for name, tensor in state.items()}
    if model.projection is not None:
        options["projection_size"] = model.projection.out_features
        state |= _linear("projector", model.projection)
    state |= _linear("head", model.head)
    if auto_class == CTC:
        blank = model.tokens.index(BLANK)
        config = HJPruneConfig(**options, vocab_size=len(model.tokens), pad_token_id=blank)
        theirs = classes.HJPruneForCTC(config)
    else:
        assert model.pooling is not None
        labels = dict(enumerate(classifier_labels(model)))
        numbers = {label: number for number, label in labels.items()}
        config = HJPruneConfig(**options, pooling=model.pooling, id2label=labels, label2id=numbers)
        theirs = classes.HJPruneForAudioClassification(config)
    theirs.load_state_dict(state)
    return theirs


def classifier_labels(model: Recogniser) -> list[str]:
    """The labels of a classifier in the order of its outputs."""
    return model.tokens[FIRST_LABEL : FIRST_LABEL + model.head.out_features]


def _linear(name: str, layer: nn.Linear) -> dict[str, torch.Tensor]:
    return {f"{name}.{part}": tensor for part, tensor in layer.state_dict().items()}


def _save_processor(
    transformers: Any, model: BatchInvariantModel, directory: Path, stock: bool
) -> None:
    """Write the feature extractor and a CTC model's tokenizer.

    The extractor changes nothing for models of ours, which normalise audio themselves.
    """
    config = model.upstream.config
    extractor = transformers.Wav2Vec2FeatureExtractor(
        do_normalize=stock and config.normalize_input,
        # Stock models with a GroupNorm over time were trained without masks.
        return_attention_mask=not stock or config.extractor_norm == "layer",
    )
    if isinstance(model, Recogniser) and not model.classifies:
        tokenizer = _tokenizer(transformers, model, directory)
        transformers.Wav2Vec2Processor(extractor, tokenizer).save_pretrained(directory)
    # Beside a processor too: releases before 5 look for it under its own name.
    extractor.save_pretrained(directory)


def _tokenizer(transformers: Any, model: Recogniser, directory: Path) -> Any:
    """The tokenizer of a CTC model's token list; its padding token is CTC's blank."""
    special = {"unk_token": UNKNOWN, "pad_token": BLANK, "eos_token": SOS_EOS}
    if model.token_type == "char" and DELIMITER not in model.tokens:
        # The tokenizer of all published models, which takes single characters only.
        numbers = _numbers(model.tokens, DELIMITER)
        vocabulary = directory / "vocab.json"
        vocabulary.write_text(json.dumps(numbers, ensure_ascii=False), encoding="utf-8")
        return transformers.Wav2Vec2CTCTokenizer(
            vocabulary, **special, bos_token=None, word_delimiter_token=DELIMITER
        )
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=_fast_tokenizer(model), clean_up_tokenization_spaces=False, **special
    )


def _numbers(tokens: Sequence[str], space: str) -> dict[str, int]:
    """Numbers of the tokens, with another name for that of the space between words."""
    return {space if token == SPACE else token: number for number, token in enumerate(tokens)}


def _fast_tokenizer(model: Recogniser) -> Any:
    """A tokenizer of characters, of words, or of sentencepiece's pieces of them."""
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

    numbers = _numbers(model.tokens, PRIVATE_SPACE)
    ctc = decoders.CTC(pad_token=BLANK, word_delimiter_token="", cleanup=False)
    if model.token_type == "bpe":
        pieces = _scored_pieces(model.tokens, str(model.bpemodel))
        tokenizer = Tokenizer(models.Unigram(pieces, unk_id=numbers[UNKNOWN], byte_fallback=False))
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
        tokenizer.decoder = decoders.Sequence([ctc, decoders.Metaspace()])
        return tokenizer
    tokenizer = Tokenizer(models.WordLevel(numbers, unk_token=UNKNOWN))
    if model.token_type == "word":
        tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
        # It sets a blank before all that does not begin with the prefix.
        spaced = decoders.WordPiece(prefix="##", cleanup=False)
        tokenizer.decoder = decoders.Sequence([ctc, spaced])
    else:
        tokenizer.normalizer = normalizers.Replace(" ", PRIVATE_SPACE)
        tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
        space = decoders.Replace(PRIVATE_SPACE, " ")
        tokenizer.decoder = decoders.Sequence([ctc, space, decoders.Fuse()])
    return tokenizer


def _scored_pieces(tokens: Sequence[str], bpemodel: str) -> list[tuple[str, float]]:
    """The tokens with the scores that a sentencepiece model gives them.

    They find its pieces of a text again where the model is a ``unigram`` one; with ``bpe`` they may
    find others. Joining pieces to a text is the same for both.
    """
    import sentencepiece

    processor = sentencepiece.SentencePieceProcessor(model_file=bpemodel)
    scores = {
        processor.id_to_piece(number): processor.get_score(number)
        for number in range(processor.get_piece_size())
    }
    lowest = min(scores.values())
    return [(token, scores.get(token, lowest - 10.0)) for token in tokens]


def _write_code(directory: Path, auto_class: str) -> None:
    """Put the code beside the weights, and say so in ``config.json``."""
    for file in sorted(STANDALONE.glob("*.py")):
        if file.name != "__init__.py":
            shutil.copyfile(file, directory / file.name)
    path = directory / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    classes = {
        ENCODER: "HJPruneModel",
        CTC: "HJPruneForCTC",
        CLASSIFIER: "HJPruneForAudioClassification",
    }
    config["auto_map"] = {"AutoConfig": "configuration_hj_prune.HJPruneConfig"} | {
        name: f"modeling_hj_prune.{classes[name]}" for name in dict.fromkeys((ENCODER, auto_class))
    }
    path.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


@contextmanager
def _quiet(transformers: Any) -> Iterator[None]:
    """Keep transformers' progress bars and remarks off the terminal."""
    logging = transformers.utils.logging
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
