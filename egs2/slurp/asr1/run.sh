#!/usr/bin/env bash
# SLURP intent classification with HJ-Pruning: the settings. All options of hjprune.sh can be given.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")"

settings=(
    --task asr
    --lang en
    --token_type word
    --train_set train
    --valid_set devel
    --test_sets "test devel"
    --upstream wav2vec2_base_960
    --finetune_config conf/tuning/train_finetune.yaml
    --compact_config conf/tuning/finetune_compact.yaml
    --init_model valid.acc.ave.pth
    --inference_asr_model valid.acc.ave.pth
    --score_types wer
    --metric accuracy
)
if [[ " $* " == *" --mini"[\ =]"true "* ]]; then
    settings+=(
        --test_sets test
        --upstream wav2vec2_mini
        --mini_pretrain_epochs 8
        --config_dir conf/mini
        --finetune_config conf/mini/train_finetune.yaml
        --compact_config conf/mini/finetune_compact.yaml
        --ramp_epochs 4
        --nj 2
        --inference_nj 2
    )
fi

exec ./hjprune.sh "${settings[@]}" "$@"
