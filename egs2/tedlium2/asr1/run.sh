#!/usr/bin/env bash
# TED-LIUM 2 ASR with HJ-Pruning: ./run.sh --stage 1 --stop_stage 7 [options of hjprune.sh]
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")"

exec ./hjprune.sh --task asr \
    --lang en \
    --train_set train \
    --valid_set dev \
    --test_sets "test dev" \
    --token_type char \
    "$@"
