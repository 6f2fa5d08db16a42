#!/usr/bin/env bash
# Data directories of SLURP's intent classification: data/{train,devel,test}, whose text is the
# label <scenario>_<action>. Run it in egs2/slurp/asr1.
set -euo pipefail

. utils/common.sh

mini=false        # true: synthesise a small corpus instead of using SLURP
mini_opts=        # options of local/make_mini_corpus.py, such as "--num_train 200 --seed 1"
download=         # true: download what is missing; default: only into downloads/slurp
use_synthetic=true          # train on the synthetic recordings too
max_missing=0.01            # share of listed recordings that may be missing on disk
drop_unseen_labels=false    # true: leave out devel and test utterances whose label train lacks
stage=1           # 1: obtain the corpus, 2: make the data directories
stop_stage=2

option_names="mini mini_opts download use_synthetic max_missing drop_unseen_labels stage stop_stage"
help_message="Usage: local/data.sh [--mini true|false] [--mini_opts \"...\"]
    [--download true|false] [--use_synthetic true|false] [--max_missing 0.01]
    [--drop_unseen_labels true|false] [--stage 1|2] [--stop_stage 1|2]"
parse_options "$@"

[[ ${stage} =~ ^[0-9]+$ && ${stop_stage} =~ ^[0-9]+$ ]] ||
    status=2 die "--stage and --stop_stage must be numbers, not '${stage}' and '${stop_stage}'"
for name in mini use_synthetic drop_unseen_labels; do
    [[ ${!name} =~ ^(true|false)$ ]] ||
        status=2 die "--${name} must be true or false, not '${!name}'"
done
[[ ${download} =~ ^(true|false|)$ ]] ||
    status=2 die "--download must be true or false, not '${download}'"
is_number "${max_missing}" ||
    status=2 die "--max_missing is a share such as 0.01, not '${max_missing}'"

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
