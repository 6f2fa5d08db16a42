"""Options of an upstream in a model, as one dataclass."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from espnet_hjprune.errors import HJPruneError
from espnet_hjprune.model.distillation_config import DistillationConfig
from espnet_hjprune.nn.config import DropoutConfig, EncoderConfig, MaskingConfig
from espnet_hjprune.options import build_dataclass, read_flag, read_number
from espnet_hjprune.pruning.config import PruningConfig

# The upstream name that takes a model directory, as the `_local` names take a checkpoint.
OWN_NAME = "hj_prune_local"
# Options on how a checkpoint is read, which a model that has its weights needs no more.
READING_OPTIONS = ("trust_checkpoint", "init_ctc")
# Options that ESPnet's `s3prl` frontend takes in its own `frontend_conf`, and ours beside them.
SOURCE_OPTIONS = (
    "upstream",
    "path_or_url",
    "architecture",
    "normalize_input",
    *READING_OPTIONS,
    "tile_factor",
    "normalize",
    "extra_conf",
)


@dataclass(frozen=True)
class UpstreamOptions:
    """Where an upstream comes from, what of it is read, and how it is trained.

    Attributes:
        upstream: name of an s3prl upstream, such as ``wav2vec2_base_960`` or ``wav2vec2_local``;
            ``hj_prune_local`` for the encoder of a model directory, such as one that was pruned.
        path_or_url: its checkpoint, for upstreams that do not bring one.
        architecture: sizes of the encoder; with it nothing is read, and the weights are random
            until a model's are loaded. It goes before ``upstream``.
        download_dir: where downloads are kept; ``None`` for the usual place.
        normalize_input: scale every utterance to zero mean and unit variance, or not, whatever the
            checkpoint says; ``None`` for what it says.
        trust_checkpoint: read a checkpoint that holds more than data too, which executes it.
        init_ctc: whether a training in ESPnet starts from the CTC layer that a fine-tuned
            checkpoint of Hugging Face has.
        normalize: normalise every hidden state over its features.
        tile_factor: how often every frame is repeated.
        multilayer_feature: read a learned weighted sum of all hidden states.
        layer: the hidden state that is read, 0 being the input of the first Transformer layer;
            -1 for the last one.
        dropout: while training.
        masking: while training.
        pruning: gates; ``None`` for none.
        distillation: what is learned from a teacher; ``None`` for no teacher.
        compile: whether ESPnet's tasks compile the encoder before they train it; elsewhere, call
            ``compile_encoder()``.
    """

    upstream: str | None = None
    path_or_url: str | None = None
    architecture: EncoderConfig | None = None
    download_dir: str | None = None
    normalize_input: bool | None = None
    trust_checkpoint: bool = False
    init_ctc: bool = False
    normalize: bool = False
    tile_factor: int = 1
    multilayer_feature: bool = False
    layer: int = -1
    dropout: DropoutConfig = field(default_factory=DropoutConfig)
    masking: MaskingConfig = field(default_factory=MaskingConfig)
    pruning: PruningConfig | None = None
    distillation: DistillationConfig | None = None
    compile: bool = False

    def __post_init__(self) -> None:
        """Check that the options go together."""
        if self.architecture is None and not self.upstream:
            raise HJPruneError("hj_prune needs the name of an s3prl upstream in option upstream")
        if self.multilayer_feature and self.layer != -1:
            raise HJPruneError("multilayer_feature and layer cannot be used together; remove one")
        if self.init_ctc:
            self._check_init_ctc()

    def _check_init_ctc(self) -> None:
        """The CTC layer of a checkpoint reads its last hidden state as it is."""
        if self.architecture is not None or not str(self.upstream).startswith("hf_"):
            raise HJPruneError(
                "init_ctc takes over the CTC layer of a checkpoint of Hugging Face; name it, as in "
                "upstream: hf_wav2vec2_custom and path_or_url, without architecture, or set "
                "init_ctc: false"
            )
        if self.multilayer_feature or self.layer != -1 or self.normalize or self.tile_factor != 1:
            raise HJPruneError(
                "init_ctc takes over a CTC layer that reads the last hidden state as it is; remove "
                "multilayer_feature, layer, normalize and tile_factor, or set init_ctc: false"
            )

    @classmethod
    def from_dict(
        cls,
        source: Mapping[str, Any] | None,
        *,
        download_dir: str | None = None,
        multilayer_feature: bool = False,
        layer: int = -1,
        dropout: Mapping[str, Any] | None = None,
        masking: Mapping[str, Any] | None = None,
        pruning: Mapping[str, Any] | None = None,
        distillation: Mapping[str, Any] | None = None,
        compile: bool = False,
    ) -> UpstreamOptions:
        """Build from mappings, as they stand in a YAML file.

        Args:
            source: ``SOURCE_OPTIONS``.
            download_dir: see the attributes, also for the other options.
            multilayer_feature: as above.
            layer: as above.
            dropout: options of :class:`DropoutConfig`.
            masking: options of :class:`MaskingConfig`.
            pruning: options of :class:`PruningConfig`.
            distillation: options of :class:`DistillationConfig`.
            compile: as above.

        Raises:
            HJPruneError: an unknown option, or a value out of range.
        """
        given = dict(source or {})
        unknown = sorted(set(given) - set(SOURCE_OPTIONS))
        if unknown:
            raise HJPruneError(
                f"hj_prune has no upstream option {', '.join(unknown)}; it takes "
                f"{', '.join(SOURCE_OPTIONS)}"
            )
        if given.get("extra_conf"):
            raise HJPruneError(
                "hj_prune gives s3prl's default hidden states; remove extra_conf, which alters them"
            )
        architecture = given.get("architecture")
        return cls(
            upstream=given.get("upstream"),
            path_or_url=given.get("path_or_url"),
            architecture=EncoderConfig.from_dict(architecture) if architecture else None,
            download_dir=download_dir,
            normalize_input=_read_optional_flag(given.get("normalize_input"), "normalize_input"),
            trust_checkpoint=read_flag(given.get("trust_checkpoint", False), "trust_checkpoint"),
            init_ctc=read_flag(given.get("init_ctc", False), "init_ctc"),
            normalize=bool(given.get("normalize", False)),
            tile_factor=read_number(given.get("tile_factor", 1), "int", "tile_factor"),
            multilayer_feature=multilayer_feature,
            layer=layer,
            dropout=build_dataclass(DropoutConfig, dropout, "dropout"),
            masking=build_dataclass(MaskingConfig, masking, "masking"),
            pruning=None if pruning is None else PruningConfig.from_dict(pruning),
            distillation=None
            if distillation is None
            else DistillationConfig.from_dict(distillation),
            compile=read_flag(compile, "compile"),
        )


def _read_optional_flag(value: Any, option: str) -> bool | None:
    return None if value is None else read_flag(value, option)


# The options beside those of the source.
OWN_OPTIONS = tuple(
    option.name for option in fields(UpstreamOptions) if option.name not in SOURCE_OPTIONS
)
