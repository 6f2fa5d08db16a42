#!/usr/bin/env bash
# Install what the recipes need: tools/venv with pinned Python packages, and system packages.
# A second run is quick; a run that was interrupted can simply be repeated.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."

venv=tools/venv
stamp=tools/setup.done
unfinished=tools/src/setup.unfinished

# Program, package of Debian and Ubuntu, and what misses it.
system_programs=(
    "sctk sctk scoring, the last stage of every recipe"
    "espeak-ng espeak-ng the synthetic corpora of --mini true"
    "flite flite the synthetic corpora of --mini true"
    "sox sox audio commands of your own in wav.scp"
    "flac flac audio commands of your own in wav.scp"
    "shellcheck shellcheck make test"
)

log() {
    local fname=${BASH_SOURCE[1]##*/}
    echo "$(date '+%Y-%m-%dT%H:%M:%S') (${fname}:${BASH_LINENO[0]}:${FUNCNAME[1]}) $*"
}

die() {
    echo "tools/setup.sh: $*" >&2
    exit 1
}

. tools/uv.sh

has_program() {
    command -v "$1" >/dev/null || { [ "$1" = sctk ] && command -v sclite >/dev/null; }
}

install_python_packages() {
    local uv
    uv=$(need_uv)
    # An interrupted installation may have left half a package, which uv would take for a whole.
    if [ -e "${unfinished}" ]; then
        rm -rf "${venv}"
    fi
    rm -f "${stamp}"
    mkdir -p tools/src
    touch "${unfinished}"
    if [ ! -x "${venv}/bin/python3" ]; then
        rm -rf "${venv}"
        "${uv}" venv --quiet --python '>=3.10,<3.13' "${venv}" ||
            die "there is no Python 3.10, 3.11 or 3.12, and flashlight-text and kenlm are not built" \
                "for later ones; install one of them and run this again"
    fi
    log "installing the Python packages of tools/requirements.txt into ${venv}"
    export VIRTUAL_ENV="${PWD}/${venv}"
    "${uv}" pip install --requirement tools/requirements.txt
    "${uv}" pip install --no-deps --editable .
    rm -f "${unfinished}"
}

install_system_packages() {
    local entry program package purpose as_root=() packages=()
    for entry in "${system_programs[@]}"; do
        read -r program package purpose <<<"${entry}"
        has_program "${program}" || packages+=("${package}")
    done
    if [ ${#packages[@]} -eq 0 ]; then
        return
    fi
    if [ "$(id -u)" -ne 0 ]; then
        as_root=(sudo -n)
    fi
    if command -v apt-get >/dev/null && ${as_root[@]+"${as_root[@]}"} true 2>/dev/null; then
        log "installing the system packages ${packages[*]}"
        {
            ${as_root[@]+"${as_root[@]}"} apt-get update -qq &&
                ${as_root[@]+"${as_root[@]}"} env DEBIAN_FRONTEND=noninteractive \
                    apt-get install -y -qq --no-install-recommends "${packages[@]}" >/dev/null
        } || log "apt-get failed"
    fi
    for entry in "${system_programs[@]}"; do
        read -r program package purpose <<<"${entry}"
        has_program "${program}" ||
            echo "tools/setup.sh: the program ${program} is missing, which ${purpose} needs;" \
                "ask an administrator for the package '${package}'" >&2
    done
}

# What the environment depends on; its path too, as scripts and the editable install hold it.
fingerprint() {
    { cat tools/requirements.txt setup.py tools/setup.sh tools/uv.sh && pwd; } | cksum
}

if [ "$(cat "${stamp}" 2>/dev/null)" = "$(fingerprint)" ] && [ -x "${venv}/bin/python3" ]; then
    log "${venv} is up to date"
else
    install_python_packages
    fingerprint >tools/src/setup.fingerprint
    mv tools/src/setup.fingerprint "${stamp}"
    log "${venv} is ready"
fi
install_system_packages
