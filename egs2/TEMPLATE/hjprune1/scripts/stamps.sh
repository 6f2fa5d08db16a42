# Stamps: finished work is skipped, and what other options or inputs made is set aside.
# To be sourced after utils/common.sh and scripts/jobs.sh.
# shellcheck shell=bash

# unfinished DIR INPUT...: true if DIR must still be made of the inputs.
unfinished() {
    local dir=$1 inputs aside
    shift
    inputs=$(printf '%s\n' "$@")
    stop_leftover "${dir}"
    if [ -e "${dir}/.options" ] && [ "$(cat "${dir}/.options")" != "${inputs}" ]; then
        aside=$(dirname "${dir}")/.replaced/$(basename "${dir}").$(date '+%Y%m%d-%H%M%S')
        log "${dir} was made with other options or inputs; moving it to ${aside} and starting over"
        { mkdir -p "$(dirname "${aside}")" && mv "${dir}" "${aside}"; } ||
            die "${dir} cannot be moved to ${aside}; move it yourself"
    fi
    if [ -e "${dir}/.done" ]; then
        log "${dir} is finished already; skipping (remove ${dir}/.done to repeat it)"
        return 1
    fi
    { mkdir -p "${dir}" && printf '%s\n' "${inputs}" >"${dir}/.options"; } ||
        die "${dir} cannot be made or written to; see to its owner and the space that is left"
}

# unfinished_training DIR EPOCHS INPUT...: the same for a training, which goes on where it was if
# nothing but its number of epochs was raised.
unfinished_training() {
    local dir=$1 epochs=$2 options=$1/.options before
    shift 2
    if [ -e "${options}" ] && [ -e "${dir}/checkpoint.pth" ]; then
        before=$(tail -n 1 "${options}")
        if [ "$(head -n -1 "${options}")" = "$(printf '%s\n' "$@")" ] &&
            [[ ${before} =~ ^[0-9]+$ ]] && ((before < epochs)); then
            stop_leftover "${dir}"
            log "${dir} goes on where it was, to ${epochs} epochs instead of ${before};" \
                "a learning rate that falls to the end follows the schedule of ${epochs} from there on"
            rm -f "${dir}/.done"
            printf '%s\n' "$@" "${epochs}" >"${options}"
        fi
    fi
    unfinished "${dir}" "$@" "${epochs}"
}

# finish DIR: DIR is made. The stamp differs each time, so that it is an input to what follows.
finish() {
    date '+%s%N' >"$1/.done.new"
    mv "$1/.done.new" "$1/.done"
}

# check_output DIR STAMP: where a data directory is gone, its stamp counts no more; one without a
# stamp was made elsewhere and is not replaced.
check_output() {
    if [ ! -e "$1/wav.scp" ]; then
        rm -f "$2/.done"
    elif [ ! -e "$2" ]; then
        die "$1 was not made here, and would be replaced; move it away, or start at a later stage"
    fi
}

# checksum FILE...: changes when a file does. What is missing is reported where it is read.
checksum() {
    cat "$@" 2>/dev/null | cksum
}

# settings_checksum FILE...: the same, but for the number of epochs that a configuration has.
settings_checksum() {
    sed -E '/^max_epoch: *[0-9]+ *(#.*)?$/d' "$@" 2>/dev/null | cksum
}

# tree_checksum DIR: changes when a file below it does, other than hidden ones.
tree_checksum() {
    find -L "$1" -type f ! -path '*/__pycache__/*' ! -path '*/.*' -print0 | LC_ALL=C sort -z |
        xargs -0 cat | cksum
}

# file_stamp PATH: changes when a file does that is too large to read, or a model in a directory.
file_stamp() {
    if [ -d "$1" ]; then
        find -L "$1" -maxdepth 1 -type f \( -name 'config.*' -o -name '*model*' -o -name '*.pth' \) \
            -printf '%f %s %T@\n' | LC_ALL=C sort
    else
        stat -L -c '%s %.Y' -- "$1" 2>/dev/null || true
    fi
}

# Tables of a data directory that are read.
data_tables=(wav.scp segments text utt2spk transcript utt2num_samples)

# data_checksum DIR: changes when what is read of a data directory does, or audio that it lists.
data_checksum() {
    local file
    {
        for file in "${data_tables[@]}"; do
            [ ! -e "$1/${file}" ] || cat "$1/${file}"
        done
        # What is missing is reported where it is read. Archives are listed as FILE:OFFSET.
        sed 's/^[^[:space:]]*[[:space:]]*//; s/\.ark:[0-9]*$/.ark/' "$1/wav.scp" 2>/dev/null |
            uniq | xargs -d '\n' stat -L -c '%s %.Y %n' 2>/dev/null || true
    } | cksum
}

# corpus_places: the variables that db.sh sets, with their values.
corpus_places() {
    local name names
    names=$(grep -oE '^[A-Z][A-Z0-9_]*=' db.sh | tr -d '=') || true
    (
        # shellcheck source=/dev/null
        . ./db.sh
        for name in ${names}; do
            echo "${name}=${!name:-}"
        done
    )
}
