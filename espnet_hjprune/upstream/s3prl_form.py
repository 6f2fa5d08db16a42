"""Checkpoints that s3prl loads: s3prl builds the upstream, we take the weights."""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from espnet_hjprune.atomic import replaced_file
from espnet_hjprune.errors import HJPruneError
from espnet_hjprune.nn.config import EncoderConfig
from espnet_hjprune.upstream.form import Form, Loaded, RandomModel


@dataclass(frozen=True)
class S3prlForm(Form):
    """Checkpoint files of one of s3prl's upstream packages.

    Attributes:
        package: s3prl's package, below ``s3prl.upstream``.
        patterns: the package's upstream names, as messages list them.
        weight_key: entry of the checkpoint that holds the weights.
        read: takes our configuration and fairseq's weights from s3prl's ``UpstreamExpert``.
        make: builds s3prl's model of an architecture with random weights, and a checkpoint of it
            without the weights. What a published checkpoint has beside the model's own weights
            goes under ``weight_key``.
    """

    package: str
    patterns: str
    weight_key: str
    read: Callable[[Any], Loaded]
    make: Callable[[EncoderConfig], tuple[nn.Module, dict[str, Any]]]

    @property
    def key(self) -> str:
        """The package's name."""
        return self.package

    @property
    def names(self) -> str:
        """The package's upstream names."""
        return self.patterns

    def needs_path(self, name: str) -> bool:
        """Upstreams of other names bring their own checkpoint."""
        return name.endswith(("_local", "_url", "_custom"))

    def expert(self, name: str, path: str | None) -> Any:
        """Let s3prl build one of the package's upstreams, by default from its own checkpoint."""
        # Not from s3prl.hub, which imports all packages.
        hubconf = importlib.import_module(f"s3prl.upstream.{self.package}.hubconf")
        return getattr(hubconf, name)(**({"ckpt": path} if path else {}))

    def load(self, name: str, path: str | None, download_dir: str | None) -> Loaded:
        """Let s3prl build the upstream, then read it off; see :meth:`Form.load`."""
        if path and "://" not in path and not Path(path).is_file():
            raise HJPruneError(f"the upstream checkpoint {path} does not exist")
        if download_dir is not None:
            import s3prl.util.download

            s3prl.util.download.set_dir(download_dir)
        try:
            expert = self.expert(name, path)
        except Exception as error:
            # s3prl reports a file of another kind through whatever its reader stumbles over.
            reason = str(error).splitlines()[0] if str(error) else ""
            raise HJPruneError(
                f"{path or name} cannot be read as a {self.package} checkpoint in s3prl's "
                f"converted format ({type(error).__name__}: {reason})"
            ) from error
        return self.read(expert)

    def random_model(self, config: EncoderConfig) -> RandomModel:
        """Build s3prl's model with random weights, and what saves it as a checkpoint file."""
        model, content = self.make(config)

        def save(path: Path) -> None:
            weights = model.state_dict() | content.get(self.weight_key, {})
            with replaced_file(path) as temporary:
                torch.save(content | {self.weight_key: weights}, temporary)

        return model, save


def as_dict(config: Any) -> dict[str, Any]:
    """Fields of one of s3prl's configurations, a dataclass or a mapping."""
    return dataclasses.asdict(config) if dataclasses.is_dataclass(config) else dict(config)  # type: ignore[arg-type]
