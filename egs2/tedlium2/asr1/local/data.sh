#!/usr/bin/env bash
# Data directories of TED-LIUM's release 2: data/{train,dev,test}. Run it in egs2/tedlium2/asr1.
# shellcheck disable=SC2154 # the options are set by their table
set -euo pipefail

. utils/common.sh
. utils/corpus.sh

define_options "local/data.sh [--<option> <value> ...]" <<'END'
  --mini false        true: synthesise a small corpus instead of using TED-LIUM
  --mini_opts ""      options of local/make_mini_corpus.py, such as "--num_train 200 --seed 1"
  --download ""       true: download what is missing; default: only into the directory "downloads"
  --stage 1           1: obtain the corpus, 2: make the data directories
  --stop_stage 2      last of them
END
parse_corpus_options "$@"

. ./path.sh
. ./db.sh

find_corpus TEDLIUM2 downloads/mini downloads TEDLIUM_release2/

if runs_stage 1; then
    obtain_corpus TEDLIUM2 TEDLIUM_release2 local/download_tedlium2.py
fi

if runs_stage 2; then
    log "stage 2: Preparing data/ from ${corpus_dir}/TEDLIUM_release2"
    python3 local/prepare_tedlium2.py --corpus_dir "${corpus_dir}/TEDLIUM_release2" \
        --output_dir data --check_counts "${check_counts}"
fi

log "Successfully finished. [elapsed=${SECONDS}s]"
