#!/usr/bin/env bash
# Data directories of SLURP's intent classification: data/{train,devel,test}, whose text is the
# label <scenario>_<action>. Run it in egs2/slurp/asr1.
# shellcheck disable=SC2154 # the options are set by their table
set -euo pipefail

. utils/common.sh
. utils/corpus.sh

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
parse_corpus_options "$@"
check_flags use_synthetic drop_unseen_labels
[[ ${max_missing} =~ ^([0-9]+(\.[0-9]*)?|\.[0-9]+)$ ]] ||
    die_of_usage "--max_missing is a share such as 0.01, not '${max_missing}'"

. ./path.sh
. ./db.sh

find_corpus SLURP downloads/mini/slurp downloads/slurp "dataset/ and audio/"

if runs_stage 1; then
    obtain_corpus SLURP dataset/slurp local/download_slurp.py
fi

if runs_stage 2; then
    log "stage 2: Preparing data/ from ${corpus_dir}"
    python3 local/prepare_slurp.py --corpus_dir "${corpus_dir}" --output_dir data \
        --use_synthetic "${use_synthetic}" --max_missing "${max_missing}" \
        --drop_unseen_labels "${drop_unseen_labels}" --check_counts "${check_counts}"
fi

log "Successfully finished. [elapsed=${SECONDS}s]"
