#!/usr/bin/env bash
# LibriSpeech-100 without labels: ./run.sh --stage 1 --stop_stage 7 [options of unlabelled.sh]
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")"

exec ./unlabelled.sh \
    --train_set train_clean_100 \
    --valid_set dev \
    --test_sets "test_clean test_other" \
    --mini_pretrain_epochs 8 \
    "$@"
