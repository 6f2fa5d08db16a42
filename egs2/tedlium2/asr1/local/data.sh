#!/usr/bin/env bash
# Data directories of TED-LIUM's release 2: data/{train,dev,test}. Run it in egs2/tedlium2/asr1.
# shellcheck disable=SC2154 # the options are set by their table
set -euo pipefail

. utils/common.sh

define_options "local/data.sh [--<option> <value> ...]" <<'END'
  --mini false        true: synthesise a small corpus instead of using TED-LIUM
  --mini_opts ""      options of local/make_mini_corpus.py, such as "--num_train 200 --seed 1"
  --download ""       true: download what is missing; default: only into the directory "downloads"
  --stage 1           1: obtain the corpus, 2: make the data directories
  --stop_stage 2      last of them
END
parse_options "$@"
check_flags mini ${download:+download}
[[ ${stage}${stop_stage} =~ ^[12][12]$ ]] ||
    die_of_usage "--stage and --stop_stage must be 1 or 2, not '${stage}' and '${stop_stage}'"

. ./path.sh
. ./db.sh

if ${mini}; then
    corpus_dir=downloads/mini
else
    corpus_dir=${TEDLIUM2:-}
    [ -n "${corpus_dir}" ] ||
        die "TEDLIUM2 is not set; give the directory that holds TEDLIUM_release2/ in db.sh"
    if [ -z "${download}" ]; then
        [ "${corpus_dir}" = downloads ] && download=true || download=false
    fi
fi

if [ "${stage}" -le 1 ] && [ "${stop_stage}" -ge 1 ]; then
    if ${mini}; then
        log "stage 1: Synthesising the mini corpus in ${corpus_dir}"
        read -ra opts <<<"${mini_opts}"
        python3 local/make_mini_corpus.py --output_dir "${corpus_dir}" ${opts[@]+"${opts[@]}"}
    elif ${download}; then
        log "stage 1: Downloading what is missing in ${corpus_dir}"
        python3 local/download_tedlium2.py --output_dir "${corpus_dir}"
    elif [ ! -d "${corpus_dir}/TEDLIUM_release2" ]; then
        die "${corpus_dir}/TEDLIUM_release2 does not exist; correct TEDLIUM2 in db.sh," \
            "or give --download true"
    fi
fi

if [ "${stage}" -le 2 ] && [ "${stop_stage}" -ge 2 ]; then
    log "stage 2: Preparing data/ from ${corpus_dir}/TEDLIUM_release2"
    check_counts=true
    if ${mini}; then
        check_counts=false
    fi
    python3 local/prepare_tedlium2.py --corpus_dir "${corpus_dir}/TEDLIUM_release2" \
        --output_dir data --check_counts "${check_counts}"
fi

log "Successfully finished. [elapsed=${SECONDS}s]"
