"""Where dense encoders come from: upstreams of s3prl and transformers, and named architectures.

A family of upstreams is described in one file of :mod:`espnet_hjprune.upstream.families`.
"""

from espnet_hjprune.upstream.architectures import ARCHITECTURES, architecture
from espnet_hjprune.upstream.form import ReadOptions
from espnet_hjprune.upstream.read import read_upstream

__all__ = ["ARCHITECTURES", "ReadOptions", "architecture", "read_upstream"]
