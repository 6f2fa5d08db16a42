"""Checkpoints of Hugging Face's transformers, of a local directory or by a hub name."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from espnet_hjprune.atomic import replaced_directory
from espnet_hjprune.checkpoint_file import needed_beyond_data
from espnet_hjprune.errors import HJPruneError
from espnet_hjprune.nn.config import ConvLayerConfig, EncoderConfig, PositionalConfig
from espnet_hjprune.upstream.fairseq_format import check_supported
from espnet_hjprune.upstream.form import Form, Loaded, RandomModel, ReadOptions

# Of transformers' feature extractor.
EPSILON = 1e-7
# Names of transformers as patterns, and the names that fairseq has for the same weights.
_RENAMED = [
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"^feature_extractor\.conv_layers\.(\d+)\.conv\.", r"feature_extractor.conv_layers.\1.0."),
        (r"^feature_projection\.layer_norm\.", "layer_norm."),
        (r"^feature_projection\.projection\.", "post_extract_proj."),
        (r"^masked_spec_embed$", "mask_emb"),
        (r"^(encoder)\.pos_conv_embed\.conv\.", r"\1.pos_conv.0."),
        (r"parametrizations\.weight\.original0$", "weight_g"),
        (r"parametrizations\.weight\.original1$", "weight_v"),
        (r"^(encoder\.layers\.\d+)\.layer_norm\.", r"\1.self_attn_layer_norm."),
        (r"\.attention\.gru_rel_pos_const$", ".self_attn.grep_a"),
        (r"\.attention\.gru_rel_pos_linear\.", ".self_attn.grep_linear."),
        (r"\.attention\.rel_attn_embed\.", ".self_attn.relative_attention_bias."),
        (r"\.attention\.([qkv]|out)_proj\.", r".self_attn.\1_proj."),
        (r"\.feed_forward\.intermediate_dense\.", ".fc1."),
        (r"\.feed_forward\.output_dense\.", ".fc2."),
    )
]


def fairseq_name(name: str, extractor_norm: str) -> str:
    """Translate the name of a weight from transformers to fairseq."""
    for pattern, replacement in _RENAMED:
        name = pattern.sub(replacement, name)
    place = "2.1" if extractor_norm == "layer" else "2"
    return re.sub(r"^(feature_extractor\.conv_layers\.\d+)\.layer_norm\.", rf"\1.{place}.", name)


def _unchanged(config: EncoderConfig, _: Any) -> EncoderConfig:
    return config


def _no_options(_: EncoderConfig) -> dict[str, Any]:
    return {}


@dataclass(frozen=True)
class HuggingFaceForm(Form):
    """Directories (or hub names) with checkpoints of one of transformers' models.

    Attributes:
        kind: transformers' ``model_type``.
        model_class: transformers' class of the model without a head.
        complete: adds to our configuration what only this kind has, from transformers' own.
        options: these parts of our configuration as options of transformers' configuration.
    """

    kind: str
    model_class: str
    complete: Callable[[EncoderConfig, Any], EncoderConfig] = _unchanged
    options: Callable[[EncoderConfig], dict[str, Any]] = _no_options

    @property
    def key(self) -> str:
        """As s3prl calls its packages for transformers."""
        return f"hf_{self.kind}"

    @property
    def names(self) -> str:
        """The one name, which takes a checkpoint."""
        return f"{self.key}_custom"

    def needs_path(self, name: str) -> bool:
        """Always."""
        return True

    def load(self, name: str, path: str | None, options: ReadOptions) -> Loaded:
        """Let transformers load the model, then read it off; see :meth:`Form.load`.

        Weights in pickles are read by torch's restricted unpickler, also with
        ``trust_checkpoint``, and Python code beside them is not run.
        """
        path, download_dir = str(path), options.download_dir
        theirs, model, report = self.load_theirs(path, self.model_class, download_dir)
        fine_tuned = any(key.startswith("lm_head.") for key in report["unexpected_keys"])
        if fine_tuned and not options.init_ctc:
            logging.info(
                "%s has a CTC layer and its vocabulary, which are left behind; init_ctc: true "
                "(--init_ctc true in a recipe) takes them over",
                path,
            )
        normalize = _normalises(path, download_dir)
        if normalize is None:
            normalize = options.normalize_input
        if normalize is None:
            logging.warning(
                "%s does not say whether audio is normalised; it is, as for the published base "
                "models; set normalize_input: true or false",
                path,
            )
            normalize = True
        config = self.complete(config_from_hugging_face(theirs, path, normalize), theirs)
        # A checkpoint without it gets a random one from transformers.
        random = report["missing_keys"]
        weights = {
            fairseq_name(name, config.extractor_norm): tensor
            for name, tensor in model.state_dict().items()
            if name not in random
        }
        return config, weights

    def load_theirs(
        self, path: str, model_class: str, download_dir: str | None
    ) -> tuple[Any, Any, Mapping[str, Any]]:
        """Let transformers load a model of the kind.

        Args:
            path: a directory, or a hub name.
            model_class: transformers' class of the model, with or without a head.
            download_dir: where downloads are kept; ``None`` for the usual place.

        Returns:
            Its configuration, the model in float32 with a mask embedding, and what transformers
            reports of its loading.

        Raises:
            HJPruneError: there is no such checkpoint, it is of another kind, would run code, or
                lacks a weight other than the mask embedding.
        """
        transformers = import_transformers()
        local = Path(path)
        if not local.is_dir() and (path.startswith((".", "/")) or local.is_file()):
            raise HJPruneError(
                f"{path} is no directory with config.json and weights, as transformers saves them"
            )
        try:
            theirs = transformers.AutoConfig.from_pretrained(
                path, cache_dir=download_dir, trust_remote_code=False
            )
            if theirs.model_type != self.kind:
                raise HJPruneError(
                    f"{path} holds a {theirs.model_type} model; the upstream {self.names} takes "
                    f"{self.kind} models"
                )
            # Without it the model has no mask embedding, also where the checkpoint has one.
            theirs.mask_time_prob = theirs.mask_time_prob or 0.05
            model, report = getattr(transformers, model_class).from_pretrained(
                path, config=theirs, output_loading_info=True, cache_dir=download_dir
            )
        except HJPruneError:
            raise
        except Exception as error:
            # transformers reports broken files through whatever its readers stumble over.
            needs = needed_beyond_data(error)
            reason = " ".join(str(error).split())[:300]
            remedy = "give another directory"
            if needs is not None:
                reason = f"its weights are a pickle that would run {needs}"
                remedy = "give a directory with model.safetensors"
            elif not local.is_dir():
                remedy = (
                    f"it is looked for at https://huggingface.co/{path}: without a network, give a "
                    "directory with a copy of its files instead (--upstream_ckpt DIR, or "
                    "path_or_url: DIR in a configuration)"
                )
            raise HJPruneError(
                f"{path} cannot be loaded as a {self.kind} model of transformers ({reason}); "
                f"{remedy}"
            ) from error
        # Transformers would train with random values in their places.
        missing = sorted(key for key in report["missing_keys"] if not _is_mask_embedding(key))
        if missing:
            raise HJPruneError(
                f"{path} lacks {len(missing)} weights, such as {missing[0]}; renew the checkpoint"
            )
        return theirs, model.float(), report

    def random_model(self, config: EncoderConfig) -> RandomModel:
        """Build transformers' model with random weights, and what saves it as a directory."""
        transformers = import_transformers()
        options = hugging_face_options(config) | self.options(config)
        theirs = transformers.AutoConfig.for_model(self.kind, **options)
        model = getattr(transformers, self.model_class)(theirs)
        extractor = transformers.Wav2Vec2FeatureExtractor(do_normalize=config.normalize_input)

        def save(path: Path) -> None:
            with replaced_directory(path) as directory:
                model.save_pretrained(directory)
                extractor.save_pretrained(directory)

        return model, save


def import_transformers() -> Any:
    """Import transformers.

    Raises:
        HJPruneError: it is not installed.
    """
    try:
        import transformers
    except ImportError as error:
        raise HJPruneError(
            "transformers is not installed; install it (pip install transformers) to load an "
            "upstream whose name begins with hf_"
        ) from error
    return transformers


def config_from_hugging_face(theirs: Any, source: str, normalize: bool) -> EncoderConfig:
    """Translate what all models share of a configuration of transformers.

    Args:
        theirs: the configuration.
        source: where it is from, for messages.
        normalize: whether utterances are scaled to zero mean and unit variance.

    Raises:
        HJPruneError: an option that our encoder does not have.
    """
    check_supported(
        theirs.to_dict(),
        {
            "add_adapter": (False,),
            "hidden_act": ("gelu", "relu"),
            "feat_extract_activation": ("gelu",),
            "conv_pos_batch_norm": (False,),
            "adapter_attn_dim": (None,),
            "layer_norm_eps": (1e-5,),
        },
        source,
    )
    hidden, heads = theirs.hidden_size, theirs.num_attention_heads
    groups = theirs.num_conv_pos_embedding_groups
    convs = zip(theirs.conv_dim, theirs.conv_kernel, theirs.conv_stride, strict=True)
    return EncoderConfig(
        conv_layers=[ConvLayerConfig(*layer) for layer in convs],
        hidden_size=hidden,
        head_dim=hidden // heads,
        heads=[heads] * theirs.num_hidden_layers,
        ffn_sizes=[theirs.intermediate_size] * theirs.num_hidden_layers,
        positional=PositionalConfig(theirs.num_conv_pos_embeddings, [hidden // groups] * groups),
        extractor_norm=theirs.feat_extract_norm,
        conv_bias=theirs.conv_bias,
        norm_first=theirs.do_stable_layer_norm,
        normalize_input=normalize,
        normalize_epsilon=EPSILON,
        activation=theirs.hidden_act,
        projection_norm=getattr(theirs, "feat_proj_layer_norm", True),
    )


def hugging_face_options(config: EncoderConfig) -> dict[str, Any]:
    """Translate a dense configuration to options of transformers' configurations."""
    return {
        "hidden_size": config.hidden_size,
        "num_hidden_layers": len(config.heads),
        "num_attention_heads": config.heads[0],
        "intermediate_size": config.ffn_sizes[0],
        "conv_dim": [layer.channels for layer in config.conv_layers],
        "conv_kernel": [layer.kernel for layer in config.conv_layers],
        "conv_stride": [layer.stride for layer in config.conv_layers],
        "num_feat_extract_layers": len(config.conv_layers),
        "conv_bias": config.conv_bias,
        "num_conv_pos_embeddings": config.positional.kernel,
        "num_conv_pos_embedding_groups": len(config.positional.group_widths),
        "do_stable_layer_norm": config.norm_first,
        "feat_extract_norm": config.extractor_norm,
        "layerdrop": 0.0,
    }


def _is_mask_embedding(key: str) -> bool:
    return key.split(".")[-1] == "masked_spec_embed"


def _normalises(path_or_name: str, download_dir: str | None) -> bool | None:
    """Whether the checkpoint's feature extractor scales utterances; ``None`` if it does not say.

    Transformers 5 writes the extractor's options into the file of the processor around it, and
    prefers those to a file of their own, as older releases and extractors alone have it.
    """
    from transformers.utils import cached_file

    for name, parts in (
        ("processor_config.json", ("feature_extractor", "audio_processor")),
        ("preprocessor_config.json", ("feature_extractor", None)),
        ("processor_config.json", (None,)),
    ):
        try:
            file = cached_file(path_or_name, name, cache_dir=download_dir)
            options = json.loads(Path(str(file)).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        for part in parts:
            found = options if part is None else options.get(part)
            if isinstance(found, dict) and isinstance(found.get("do_normalize"), bool):
                return bool(found["do_normalize"])
    return None
