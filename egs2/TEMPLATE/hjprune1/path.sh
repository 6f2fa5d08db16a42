# Environment of the recipe; sourced by its scripts.
# shellcheck shell=bash

main_root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../../.." && pwd)
if [ -d "${main_root}/tools/venv/bin" ]; then
    export PATH="${main_root}/tools/venv/bin:${PATH}"
fi
export PYTHONPATH="${main_root}${PYTHONPATH:+:${PYTHONPATH}}"
# Logs are followed while they are written.
export PYTHONUNBUFFERED=1
export PYTHONIOENCODING=UTF-8
export PYTHONWARNINGS=ignore
# Batches of changing length otherwise leave gaps in a GPU's memory.
export PYTORCH_CUDA_ALLOC_CONF=${PYTORCH_CUDA_ALLOC_CONF:-expandable_segments:True}
export LC_ALL=C.UTF-8
