# What every local/data.sh does to obtain its corpus; to be sourced after utils/common.sh.
# shellcheck shell=bash
# shellcheck disable=SC2034,SC2154 # local/data.sh has the options and uses what is set

# parse_corpus_options ARGUMENT...: parse the options and check those that every corpus has.
parse_corpus_options() {
    parse_options "$@"
    check_flags mini ${download:+download}
    [[ ${stage}${stop_stage} =~ ^[12][12]$ ]] ||
        die_of_usage "--stage and --stop_stage must be 1 or 2, not '${stage}' and '${stop_stage}'"
}

# runs_stage N: the stage is among those that are asked for.
runs_stage() {
    [ "${stage}" -le "$1" ] && [ "${stop_stage}" -ge "$1" ]
}

# find_corpus NAME MINI_DIR DOWNLOAD_DIR CONTENT: set corpus_dir to ${NAME} of db.sh, or to MINI_DIR
# with --mini true; check_counts; and download, which only DOWNLOAD_DIR needs not be told.
find_corpus() {
    check_counts=true
    if ${mini}; then
        corpus_dir=$2
        check_counts=false
        return
    fi
    corpus_dir=${!1:-}
    [ -n "${corpus_dir}" ] || die "$1 is not set; give the directory that holds $4 in db.sh"
    if [ -z "${download}" ]; then
        [ "${corpus_dir}" = "$3" ] && download=true || download=false
    fi
}

# obtain_corpus NAME PART DOWNLOADER: stage 1; PART of a real corpus is there if all of it is.
obtain_corpus() {
    local opts
    if ${mini}; then
        log "stage 1: Synthesising the mini corpus in ${corpus_dir}"
        read -ra opts <<<"${mini_opts}"
        python3 local/make_mini_corpus.py --output_dir "${corpus_dir}" "${opts[@]}"
    elif ${download}; then
        log "stage 1: Downloading what is missing in ${corpus_dir}"
        python3 "$3" --output_dir "${corpus_dir}"
    elif [ ! -d "${corpus_dir}/$2" ]; then
        die "${corpus_dir}/$2 does not exist; correct $1 in db.sh, or give --download true"
    fi
}
