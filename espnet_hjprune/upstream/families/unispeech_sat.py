"""UniSpeech-SAT (arXiv 2110.05752): s3prl runs it as a WavLM without the position bias."""

from __future__ import annotations

from dataclasses import replace

from espnet_hjprune.nn.config import EncoderConfig
from espnet_hjprune.upstream import sizes
from espnet_hjprune.upstream.families import wavlm
from espnet_hjprune.upstream.family import Family
from espnet_hjprune.upstream.s3prl_form import S3prlForm


def _adapt(config: EncoderConfig) -> EncoderConfig:
    return replace(config, length_rule="chunk")


FAMILY = Family(
    s3prl=S3prlForm("unispeech_sat", "unispeech_sat*", "model", ("cfg",), wavlm.read, wavlm.make),
    adapt=_adapt,
    architectures={
        "unispeech_sat_base": lambda: _adapt(sizes.base()),
        "unispeech_sat_base_plus": lambda: _adapt(sizes.base()),
        "unispeech_sat_large": lambda: _adapt(sizes.large()),
    },
)
