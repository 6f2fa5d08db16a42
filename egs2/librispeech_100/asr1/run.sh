#!/usr/bin/env bash
# LibriSpeech-100 ASR with HJ-Pruning: ./run.sh --stage 1 --stop_stage 7 [options of hjprune.sh]
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")"
. ./db.sh

test_sets="test_clean test_other dev_clean dev_other"
if [ -n "${TEDLIUM}" ]; then
    test_sets+=" test_tedlium"
fi

exec ./hjprune.sh \
    --train_set train_clean_100 \
    --valid_set dev \
    --test_sets "${test_sets}" \
    --mini_test_sets "test_clean test_other test_tedlium" \
    --token_type char \
    "$@"
