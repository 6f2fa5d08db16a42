"""Uniform models as stock classes of transformers hold them, without code of ours."""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import Any

import torch
from torch.nn.utils.rnn import pad_sequence

from espnet_hjprune.errors import HJPruneError
from espnet_hjprune.export.standalone_state import standalone_state
from espnet_hjprune.inference.model import BatchInvariantModel, Recogniser
from espnet_hjprune.inference.windows import Runner
from espnet_hjprune.nn.config import EncoderConfig
from espnet_hjprune.nn.encoder import SpeechEncoder
from espnet_hjprune.nn.norms import normalise_utterances
from espnet_hjprune.upstream.huggingface_form import EPSILON, hugging_face_options

# Our names as patterns, and those of transformers' wav2vec 2.0. HuBERT has the same.
_RENAMED = [
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"^feature_extractor\.layers\.(\d+)\.norm\.", r"feature_extractor.layers.\1.layer_norm."),
        (r"^feature_extractor\.layers\.", "feature_extractor.conv_layers."),
        (r"^feature_projection\.norm\.", "feature_projection.layer_norm."),
        (r"^feature_projection\.linear\.", "feature_projection.projection."),
        (r"^mask_embedding$", "masked_spec_embed"),
        (r"^positional_embedding\.convs\.0\.", "encoder.pos_conv_embed.conv."),
        (r"^transformer\.norm\.", "encoder.layer_norm."),
        (r"^transformer\.(layers\.\d+)\.attention_norm\.", r"encoder.\1.layer_norm."),
        (r"^transformer\.(layers\.\d+)\.ffn_norm\.", r"encoder.\1.final_layer_norm."),
        (r"^transformer\.(layers\.\d+)\.attention\.out\.", r"encoder.\1.attention.out_proj."),
        (
            r"^transformer\.(layers\.\d+)\.ffn\.fc1\.",
            r"encoder.\1.feed_forward.intermediate_dense.",
        ),
        (r"^transformer\.(layers\.\d+)\.ffn\.fc2\.", r"encoder.\1.feed_forward.output_dense."),
    )
]
_QKV = re.compile(r"^transformer\.(layers\.\d+)\.attention\.qkv\.(weight|bias)$")


def check_stock(model: BatchInvariantModel) -> None:
    """Make sure that a stock class of transformers can hold a model.

    Raises:
        HJPruneError: it cannot; with the reason.
    """
    config = model.upstream.config
    options = model.upstream.options
    sizes = [
        (len(set(config.heads)) > 1, "its layers have different numbers of heads"),
        (len(set(config.ffn_sizes)) > 1, "its layers have different numbers of FFN units"),
        (not all(config.heads) or not all(config.ffn_sizes), "its layers have lost all units"),
        (
            config.heads[0] * config.head_dim != config.hidden_size,
            "its hidden size is not that of its heads together",
        ),
        (
            len(set(config.positional.group_widths)) > 1,
            "the groups of its positional convolution have different widths",
        ),
    ]
    others = [
        (config.relative is not None, "it has a position bias (WavLM)"),
        (config.positional.depth > 1, "it has several positional convolutions (data2vec)"),
        (not config.projection_norm, "it has no norm before its projection"),
        (config.first_state != "embedded" or config.normalize_states, "its states are others"),
        (config.output_width is not None, "its features stand among zeros"),
        (
            options.layer != -1 or options.multilayer_feature or options.tile_factor != 1,
            "it is not read at the last hidden state alone",
        ),
        (
            isinstance(model, Recogniser) and (model.projection is not None or model.classifies),
            "it has more than a CTC layer on top",
        ),
    ]
    reasons = [reason for applies, reason in others if applies]
    remedy = "export without --stock"
    if not reasons:
        reasons = [reason for applies, reason in sizes if applies]
        remedy = f"prune with pruning.uniform: true (--uniform true in a recipe), or {remedy}"
    if reasons:
        raise HJPruneError(
            f"no stock class of transformers can hold this model: {'; '.join(reasons)}; {remedy}"
        )


def stock_options(config: EncoderConfig) -> dict[str, Any]:
    """Options of ``Wav2Vec2Config`` for a uniform encoder."""
    return hugging_face_options(config) | {
        "hidden_act": config.activation,
        # Its classes would otherwise mask features while training.
        "apply_spec_augment": False,
        "mask_time_prob": 0.05,
    }


def stock_state(encoder: SpeechEncoder) -> dict[str, torch.Tensor]:
    """The weights of a uniform encoder under the names of ``Wav2Vec2Model``."""
    state: dict[str, torch.Tensor] = {}
    for name, tensor in standalone_state(encoder).items():
        fused = _QKV.match(name)
        if fused:
            for part, piece in zip("qkv", tensor.chunk(3), strict=True):
                place = f"encoder.{fused[1]}.attention.{part}_proj.{fused[2]}"
                state[place] = piece.clone()
            continue
        for pattern, replacement in _RENAMED:
            name = pattern.sub(replacement, name)
        state[name] = tensor
    # Direction and gain per kernel position.
    conv = "encoder.pos_conv_embed.conv"
    weight = state.pop(f"{conv}.weights.0")
    gain = weight.norm(dim=(0, 1), keepdim=True)
    state[f"{conv}.parametrizations.weight.original0"] = gain
    state[f"{conv}.parametrizations.weight.original1"] = weight
    return state


def build_stock(transformers: Any, model: BatchInvariantModel) -> Any:
    """The model as one of transformers' own classes.

    Raises:
        HJPruneError: none can hold it.
    """
    check_stock(model)
    encoder = model.upstream.encoder
    options = stock_options(encoder.config)
    state = stock_state(encoder)
    if not isinstance(model, Recogniser):
        theirs = transformers.Wav2Vec2Model(transformers.Wav2Vec2Config(**options))
        theirs.load_state_dict(state)
        return theirs
    options |= {"vocab_size": len(model.tokens), "pad_token_id": 0, "ctc_zero_infinity": True}
    theirs = transformers.Wav2Vec2ForCTC(transformers.Wav2Vec2Config(**options))
    state = {f"wav2vec2.{name}": tensor for name, tensor in state.items()}
    state |= {f"lm_head.{name}": tensor for name, tensor in model.head.state_dict().items()}
    theirs.load_state_dict(state)
    return theirs


def load_stock(transformers: Any, directory: Path, model: BatchInvariantModel) -> Runner:
    """What the stock class loads from a directory, as a function of a batch and its lengths.

    Utterances are read one by one: in a padded batch the GroupNorm of stock classes sees padding.
    """
    name = "Wav2Vec2ForCTC" if isinstance(model, Recogniser) else "Wav2Vec2Model"
    theirs = getattr(transformers, name).from_pretrained(directory).eval()
    config = model.upstream.config

    def run(wave: torch.Tensor, lengths: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        rows = []
        for row, length in zip(wave, lengths, strict=True):
            samples = row[None, : int(length)]
            if config.normalize_input:
                samples = normalise_utterances(samples, length[None], config.normalize_epsilon)
            with torch.no_grad():
                output = theirs(samples)
            rows.append(output.logits[0].log_softmax(-1) if name.endswith("CTC") else output[0][0])
        return pad_sequence(rows, batch_first=True), torch.tensor([len(row) for row in rows])

    if config.normalize_input and config.normalize_epsilon != EPSILON:
        logging.warning(
            "transformers adds %g to the variance when it normalises audio, this model %g: very "
            "quiet audio differs a little",
            EPSILON,
            config.normalize_epsilon,
        )
    return run
