# Environment of the recipe; sourced by its scripts.
# shellcheck shell=bash

main_root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../../.." && pwd)
python_path=${main_root}
IFS=: read -ra python_places <<<"${PYTHONPATH:-}"
if [ -d "${main_root}/tools/venv/bin" ]; then
    export PATH="${main_root}/tools/venv/bin:${PATH}"
fi
for place in ${python_places[@]+"${python_places[@]}"}; do
    # Another ESPnet would go before that of the environment, with other versions of all it needs.
    if [ -d "${main_root}/tools/venv/bin" ] &&
        { [ -d "${place}/espnet2" ] || [ -d "${place}/s3prl" ]; }; then
        echo "warning: ${place} on PYTHONPATH has another ESPnet or s3prl than tools/venv;" \
            "it is left out" >&2
    elif [ -n "${place}" ] && [ "${place}" != "${main_root}" ]; then
        python_path+=:${place}
    fi
done
export PYTHONPATH=${python_path}
# Numba and Matplotlib end, or warn, where they cannot write their caches. Downloaded models may be in
# a home directory that cannot be written to.
home=~
written=${home}/.cache
[ -e "${written}" ] || written=${home}
if [ ! -d "${written}" ] || [ ! -w "${written}" ]; then
    export NUMBA_CACHE_DIR=${NUMBA_CACHE_DIR:-${PWD}/downloads/cache/numba}
    export MPLCONFIGDIR=${MPLCONFIGDIR:-${PWD}/downloads/cache/matplotlib}
    [ -d "${home}/.cache/torch" ] || export TORCH_HOME=${TORCH_HOME:-${PWD}/downloads/cache/torch}
    [ -d "${home}/.cache/huggingface" ] ||
        export HF_HOME=${HF_HOME:-${PWD}/downloads/cache/huggingface}
fi
# Logs are followed while they are written.
export PYTHONUNBUFFERED=1
export PYTHONIOENCODING=UTF-8
export PYTHONWARNINGS=ignore
# Batches of changing length otherwise leave gaps in a GPU's memory.
export PYTORCH_CUDA_ALLOC_CONF=${PYTORCH_CUDA_ALLOC_CONF:-expandable_segments:True}
export LC_ALL=C.UTF-8
