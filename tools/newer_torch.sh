#!/usr/bin/env bash
# Compare our encoders with s3prl's upstreams under a newer torch and torchaudio than the pinned
# ones: s3prl as a whole does not import there, the packages of the supported families do.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."

version=${1:-2.11.0}
target=tools/src/torch-${version}

log() {
    echo "$(date '+%Y-%m-%dT%H:%M:%S') (newer_torch.sh) $*"
}

die() {
    echo "tools/newer_torch.sh: $*" >&2
    exit 1
}

. tools/uv.sh

[ -x tools/venv/bin/python3 ] || die "tools/venv is missing; run tools/setup.sh first"
if [ ! -e "${target}/.complete" ]; then
    rm -rf "${target}"
    uv=$(need_uv)
    log "installing torch ${version} into ${target}"
    "${uv}" pip install --quiet --python tools/venv/bin/python3 --target "${target}" \
        "torch==${version}" "torchaudio==${version}"
    touch "${target}/.complete"
fi
export PYTHONPATH=${PWD}/${target}
tools/venv/bin/python3 - "${version}" <<'PYTHON'
import sys

import torch
import torchaudio

assert torch.__version__.startswith(sys.argv[1]), torch.__version__
assert torchaudio.__version__.startswith(sys.argv[1]), torchaudio.__version__
PYTHON
# Warnings that only newer packages give are none of ours.
tools/venv/bin/python3 -m pytest -n 0 -W default test/test_upstream.py -k "hidden_states or names"
