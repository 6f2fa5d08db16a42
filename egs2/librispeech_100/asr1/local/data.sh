#!/usr/bin/env bash
# Data directories of LibriSpeech: data/{train_clean_100,dev_clean,dev_other,test_clean,test_other}
# and data/dev, the validation set; of TED-LIUM, where there is one, data/test_tedlium. Run it in
# egs2/librispeech_100/asr1 or ssl1.
# shellcheck disable=SC2154 # the options are set by their table
set -euo pipefail

. utils/common.sh
. utils/corpus.sh

define_options "local/data.sh [--<option> <value> ...]" <<'END'
  --mini false        true: synthesise a small corpus instead of using LibriSpeech
  --mini_opts ""      options of local/make_mini_corpus.py, such as "--num_train 200 --seed 1"
  --download ""       true: download what is missing; default: only into the directory "downloads"
  --stage 1           1: obtain the corpus, 2: make the data directories
  --stop_stage 2      last of them
END
parse_corpus_options "$@"

. ./path.sh
. ./db.sh

find_corpus LIBRISPEECH downloads/mini downloads LibriSpeech/
if ${mini}; then
    TEDLIUM=${corpus_dir}
fi

if runs_stage 1; then
    obtain_corpus LIBRISPEECH LibriSpeech local/download_librispeech.py
fi

if runs_stage 2; then
    log "stage 2: Preparing data/ from ${corpus_dir}/LibriSpeech"
    python3 local/prepare_librispeech.py --corpus_dir "${corpus_dir}/LibriSpeech" \
        --output_dir data --check_counts "${check_counts}"
    if [ -n "${TEDLIUM:-}" ]; then
        log "stage 2: Preparing data/test_tedlium from ${TEDLIUM}"
        python3 local/prepare_tedlium.py --corpus_dir "${TEDLIUM}" --output_dir data \
            --check_count "${check_counts}"
    fi
fi

log "Successfully finished. [elapsed=${SECONDS}s]"
