"""The CTC layer of an ESPnet model from the checkpoint that its upstream is from."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import torch
from espnet2.asr.ctc import CTC

from espnet_hjprune.errors import HJPruneError
from espnet_hjprune.espnet.losses import find_upstreams
from espnet_hjprune.model.espnet_config import check_direct_ctc
from espnet_hjprune.upstream.ctc_head import read_ctc_head


def init_ctc(options: Mapping[str, Any], model: torch.nn.Module) -> None:
    """Let the CTC layer of a model begin as that of the checkpoint, where ``init_ctc`` says so.

    Args:
        options: options of the training.
        model: the model; one whose upstreams do not ask for it is left alone.

    Raises:
        HJPruneError: there is no such layer, or something is between it and the upstream, or the
            token list is not the checkpoint's vocabulary.
    """
    for upstream in find_upstreams(model).values():
        source = upstream.options
        if not source.init_ctc:
            continue
        ctc = getattr(model, "ctc", None)
        if not isinstance(ctc, CTC):
            raise HJPruneError("the model has no CTC layer; set init_ctc: false")
        check_direct_ctc(options, "the training")
        path = str(source.path_or_url)
        head = read_ctc_head(str(source.upstream), path, source.download_dir)
        if list(options.get("token_list") or []) != head.tokens:
            raise HJPruneError(
                f"the token list is not the vocabulary of {path}, whose CTC layer init_ctc: true "
                "takes over; make it by python3 -m espnet_hjprune.bin.recipe.token_list "
                f"--vocabulary {path} --token_type char --text TEXT --output TOKEN_LIST"
            )
        with torch.no_grad():
            ctc.ctc_lo.weight.copy_(head.weight)
            ctc.ctc_lo.bias.copy_(head.bias)
        logging.info("The CTC layer is that of %s, with %d tokens", path, len(head.tokens))
