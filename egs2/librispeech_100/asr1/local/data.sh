#!/usr/bin/env bash
# Data directories of LibriSpeech: data/{train_clean_100,dev_clean,dev_other,test_clean,test_other}
# and data/dev, the validation set; of TED-LIUM, where there is one, data/test_tedlium. Run it in
# egs2/librispeech_100/asr1.
# shellcheck disable=SC2154 # the options are set by their table
set -euo pipefail

. utils/common.sh

define_options "local/data.sh [--<option> <value> ...]" <<'END'
  --mini false        true: synthesise a small corpus instead of using LibriSpeech
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
    TEDLIUM=downloads/mini
else
    corpus_dir=${LIBRISPEECH:-}
    [ -n "${corpus_dir}" ] ||
        die "LIBRISPEECH is not set; give the directory that holds LibriSpeech/ in db.sh"
    if [ -z "${download}" ]; then
        [ "${corpus_dir}" = downloads ] && download=true || download=false
    fi
fi

if [ "${stage}" -le 1 ] && [ "${stop_stage}" -ge 1 ]; then
    if ${mini}; then
        log "stage 1: Synthesising the mini corpora in ${corpus_dir}"
        read -ra opts <<<"${mini_opts}"
        python3 local/make_mini_corpus.py --output_dir "${corpus_dir}" ${opts[@]+"${opts[@]}"}
    elif ${download}; then
        log "stage 1: Downloading what is missing in ${corpus_dir}"
        python3 local/download_librispeech.py --output_dir "${corpus_dir}"
    elif [ ! -d "${corpus_dir}/LibriSpeech" ]; then
        die "${corpus_dir}/LibriSpeech does not exist; correct LIBRISPEECH in db.sh," \
            "or give --download true"
    fi
fi

if [ "${stage}" -le 2 ] && [ "${stop_stage}" -ge 2 ]; then
    log "stage 2: Preparing data/ from ${corpus_dir}/LibriSpeech"
    check_counts=true
    if ${mini}; then
        check_counts=false
    fi
    python3 local/prepare_librispeech.py --corpus_dir "${corpus_dir}/LibriSpeech" \
        --output_dir data --check_counts "${check_counts}"
    if [ -n "${TEDLIUM:-}" ]; then
        log "stage 2: Preparing data/test_tedlium from ${TEDLIUM}"
        python3 local/prepare_tedlium.py --corpus_dir "${TEDLIUM}" --output_dir data \
            --check_count "${check_counts}"
    fi
fi

log "Successfully finished. [elapsed=${SECONDS}s]"
