# Finding and installing the package installer uv; sourced in the top directory by scripts that
# have log and die.
# shellcheck shell=bash

# Print a uv that works. One on PATH may be another program's wrapper that finds nothing.
find_uv() {
    local candidate
    for candidate in uv tools/src/uv/bin/uv ~/.local/bin/uv; do
        if "${candidate}" --version >/dev/null 2>&1; then
            echo "${candidate}"
            return 0
        fi
    done
    return 1
}

install_uv() {
    log "installing uv into tools/src/uv"
    rm -rf tools/src/uv
    mkdir -p tools/src
    # Debian's python3 may come without venv or without pip, so each way may fail.
    if python3 -m venv tools/src/uv >/dev/null 2>&1 &&
        tools/src/uv/bin/python -m pip install --quiet uv; then
        return
    fi
    rm -rf tools/src/uv
    if python3 -m pip install --quiet --target tools/src/uv uv; then
        return
    fi
    if command -v pipx >/dev/null && pipx install uv; then
        return
    fi
    die "uv cannot be installed; install it by hand ('pip install uv') and run this again"
}

# Print a uv that works, installing it where there is none.
need_uv() {
    find_uv && return
    # What an installer prints is not part of the answer.
    install_uv >&2
    find_uv || die "the uv that was installed does not run; install uv by hand and run this again"
}
