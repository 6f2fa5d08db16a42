"""Where dense encoders come from: s3prl upstreams and named architectures."""

from espnet_hjprune.upstream.architectures import ARCHITECTURES, architecture
from espnet_hjprune.upstream.s3prl_source import load_upstream

__all__ = ["ARCHITECTURES", "architecture", "load_upstream"]
