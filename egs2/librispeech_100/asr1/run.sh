#!/usr/bin/env bash
# LibriSpeech-100 ASR with HJ-Pruning: the settings. All options of hjprune.sh can be given.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")"

test_sets="test_clean test_other dev_clean dev_other"
# shellcheck source=/dev/null
if [ -n "$(. ./db.sh && echo "${TEDLIUM:-}")" ]; then
    test_sets+=" test_tedlium"
fi
settings=(
    --task asr
    --lang en
    --token_type char
    --train_set train_clean_100
    --valid_set dev
    --test_sets "${test_sets}"
    --upstream wav2vec2_base_960
    --finetune_config conf/tuning/train_finetune.yaml
    --compact_config conf/tuning/finetune_compact.yaml
)
if [[ " $* " == *" --mini"[\ =]"true "* ]]; then
    settings+=(
        --test_sets "test_clean test_other test_tedlium"
        --upstream wav2vec2_mini
        --config_dir conf/mini
        --finetune_config conf/mini/train_finetune.yaml
        --compact_config conf/mini/finetune_compact.yaml
        --ramp_epochs 4
        --nj 2
        --inference_nj 2
    )
fi

exec ./hjprune.sh "${settings[@]}" "$@"
