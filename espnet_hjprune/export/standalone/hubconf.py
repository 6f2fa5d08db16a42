"""A pruned speech encoder for ``torch.hub`` and s3prl's downstream models.

Written by ``hjprune export``; it needs torch and safetensors. ``forward`` takes what the upstreams
of s3prl take and returns what they return.
"""

import importlib.util
import json
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import nn
from torch.nn.utils.rnn import pad_sequence

dependencies = ["torch", "safetensors"]
HERE = Path(__file__).resolve().parent


def _encoder_class() -> type:
    """The class of the encoder, from the file beside this one, whatever else has its name."""
    file = HERE / "hj_prune_encoder.py"
    spec = importlib.util.spec_from_file_location(f"hj_prune_encoder_{abs(hash(HERE))}", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.HJPruneEncoder


class UpstreamExpert(nn.Module):
    """The encoder with the interface of an s3prl upstream.

    Args:
        directory: where ``config.json`` and ``model.safetensors`` are; ``None`` for that of this
            file.
    """

    def __init__(self, directory: str | Path | None = None) -> None:
        super().__init__()
        directory = Path(directory or HERE)
        config = json.loads((directory / "config.json").read_text(encoding="utf-8"))
        self.model = _encoder_class()(config["architecture"])
        prefix = "encoder."
        state = {
            name.removeprefix("hj_prune.").removeprefix(prefix): tensor
            for name, tensor in load_file(directory / "model.safetensors").items()
            if name.removeprefix("hj_prune.").startswith(prefix)
        }
        self.model.load_state_dict(state)
        self.eval()

    def get_downsample_rates(self, key: str | None = None) -> int:
        """Samples from one frame to the next, whatever the state is."""
        return self.model.downsampling

    def forward(self, wavs: list[torch.Tensor]) -> dict[str, list[torch.Tensor]]:
        """The states of utterances ``(samples,)`` at 16 kHz, each ``(batch, time, width)``."""
        lengths = torch.tensor([len(wav) for wav in wavs], device=wavs[0].device)
        states, _ = self.model(pad_sequence(wavs, batch_first=True), lengths)
        return {"hidden_states": states, "last_hidden_state": states[-1]}


def hj_prune_local(ckpt: str | None = None, **_: object) -> UpstreamExpert:
    """The upstream of this directory, or of ``ckpt``.

    Example:
        >>> upstream = torch.hub.load(directory, "hj_prune_local", source="local")
        >>> upstream([torch.randn(16000)])["hidden_states"][-1].shape
        torch.Size([1, 49, 768])
    """
    return UpstreamExpert(ckpt)
