#!/usr/bin/env bash
# SLURP intent classification with HJ-Pruning: ./run.sh --stage 1 --stop_stage 7 [options of
# hjprune.sh]. A label is one word, so that its accuracy is 100 less the word error rate.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")"

exec ./hjprune.sh \
    --train_set train \
    --valid_set devel \
    --test_sets "test devel" \
    --mini_test_sets test \
    --mini_pretrain_epochs 8 \
    --token_type word \
    --score_types wer \
    --metric accuracy \
    "$@"
