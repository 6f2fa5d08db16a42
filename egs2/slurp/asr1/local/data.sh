#!/usr/bin/env bash
# Data directories of SLURP's intent classification: data/{train,devel,test}, whose text is the
# label <scenario>_<action>. Run it in egs2/slurp/asr1.
# shellcheck disable=SC2154 # the options are set by their table
set -euo pipefail

. utils/common.sh

define_options "local/data.sh [--<option> <value> ...]" <<'END'
  --mini false                true: synthesise a small corpus instead of using SLURP
  --mini_opts ""              options of local/make_mini_corpus.py, such as "--num_train 200"
  --download ""               true: download what is missing; default: only into downloads/slurp
  --use_synthetic true        train on the synthetic recordings too
  --max_missing 0.01          share of listed recordings that may be missing on disk
  --drop_unseen_labels false  true: leave out devel and test utterances whose label train lacks
  --stage 1                   1: obtain the corpus, 2: make the data directories
  --stop_stage 2              last of them
END
parse_options "$@"
check_flags mini use_synthetic drop_unseen_labels ${download:+download}
[[ ${stage}${stop_stage} =~ ^[12][12]$ ]] ||
    die_of_usage "--stage and --stop_stage must be 1 or 2, not '${stage}' and '${stop_stage}'"
[[ ${max_missing} =~ ^([0-9]+(\.[0-9]*)?|\.[0-9]+)$ ]] ||
    die_of_usage "--max_missing is a share such as 0.01, not '${max_missing}'"

. ./path.sh
. ./db.sh

if ${mini}; then
    corpus_dir=downloads/mini/slurp
else
    corpus_dir=${SLURP:-}
    [ -n "${corpus_dir}" ] ||
        die "SLURP is not set; give the directory that holds dataset/ and audio/ in db.sh"
    if [ -z "${download}" ]; then
        [ "${corpus_dir}" = downloads/slurp ] && download=true || download=false
    fi
fi

if [ "${stage}" -le 1 ] && [ "${stop_stage}" -ge 1 ]; then
    if ${mini}; then
        log "stage 1: Synthesising the mini corpus in ${corpus_dir}"
        read -ra opts <<<"${mini_opts}"
        python3 local/make_mini_corpus.py --output_dir "${corpus_dir}" ${opts[@]+"${opts[@]}"}
    elif ${download}; then
        log "stage 1: Downloading what is missing in ${corpus_dir}"
        python3 local/download_slurp.py --output_dir "${corpus_dir}"
    elif [ ! -d "${corpus_dir}/dataset/slurp" ]; then
        die "${corpus_dir}/dataset/slurp does not exist; correct SLURP in db.sh," \
            "or give --download true"
    fi
fi

if [ "${stage}" -le 2 ] && [ "${stop_stage}" -ge 2 ]; then
    log "stage 2: Preparing data/ from ${corpus_dir}"
    check_counts=true
    if ${mini}; then
        check_counts=false
    fi
    python3 local/prepare_slurp.py --corpus_dir "${corpus_dir}" --output_dir data \
        --use_synthetic "${use_synthetic}" --max_missing "${max_missing}" \
        --drop_unseen_labels "${drop_unseen_labels}" --check_counts "${check_counts}"
fi

log "Successfully finished. [elapsed=${SECONDS}s]"
