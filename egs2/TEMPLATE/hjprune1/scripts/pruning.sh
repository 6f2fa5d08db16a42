# Stages 4, 5 and 6: gated pruning, compaction, and the training of what is left.
# To be sourced after utils/common.sh, scripts/jobs.sh and scripts/stamps.sh; the options of the
# script and the names that it makes must be set, and the commands configure and espnet_train.
# shellcheck shell=bash disable=SC2034,SC2154 # the scripts have the options and use what is set

# name_compact_models: set compact_dirs and compact_exps, the directories of stages 5 and 6, with one
# element for every target; and results_exp, where the results of all go.
name_compact_models() {
    local target tag
    compact_dirs=()
    compact_exps=()
    for target in "${targets[@]:-}"; do
        compact_dirs+=("${prune_exp}/compact${target:+_${target}}")
        tag=${method_tag}${target:+_at_${target}}
        compact_exps+=("${expdir}/${task}_compact_${tag}_${upstream_tag}_${dataset_tag}")
    done
    results_exp=${compact_exps[-1]}
}

# gated_model INDEX: the model at a target. The last epoch is on it; those that score better may be
# pruned less.
gated_model() {
    find "${prune_exp}" -maxdepth 1 -name "${target_epochs[$1]:-*}epoch.pth" | sort -V | tail -n 1
}

# train_gates STAMP OPTION...: train a gated model from what the stamp is of. The options are those of
# recipe.configure.
train_gates() {
    local index models=() settings=("${prune_config}" "$1" "${data_stamps[@]}")
    shift
    [ ! -f "${latency_table}" ] || settings+=("${latency_table}")
    if unfinished_training "${prune_exp}" "${prune_max_epoch}" "$*" "${prune_args[*]}" \
        "$(settings_checksum "${settings[@]}")"; then
        "${configure[@]}" --config "${prune_config}" --output_dir "${prune_exp}" \
            --max_epoch "${prune_max_epoch}" --allow_off_target "${allow_off_target}" \
            "$@" -- "${prune_args[@]}"
        run_training "stage 4: gated pruning" "${prune_exp}" "${espnet_train[@]}" \
            --config "${prune_exp}/training.yaml" --output_dir "${prune_exp}" "${prune_args[@]}"
        for index in "${!compact_dirs[@]}"; do
            models+=("$(gated_model "${index}")")
        done
        "${python[@]}" -m espnet_hjprune.bin.recipe.target_distance \
            --train_config "${prune_exp}/config.yaml" --model_file "${models[@]}"
        finish "${prune_exp}"
    fi
}

# Compact the model at every target.
compact_models() {
    local index wavs=()
    need "${prune_exp}/.done" "run stage 4 first"
    if [ "${audio_type}" = sound ]; then
        # The gated and the compact model are compared on a few real utterances.
        mapfile -t wavs < <(sed -n '1,4s/^\S*\s*//p' "${raw_dir}/${valid_set}/wav.scp")
        wavs=(--wav "${wavs[@]}")
    fi
    for index in "${!compact_dirs[@]}"; do
        if unfinished "${compact_dirs[index]}" \
            "$(settings_checksum "${compact_config}" "${prune_exp}/.done")"; then
            run_job "${compact_dirs[index]}" "${python[@]}" -m espnet_hjprune.bin.compact \
                --task "${task}" --train_config "${prune_exp}/config.yaml" \
                --model_file "$(gated_model "${index}")" --output_dir "${compact_dirs[index]}" \
                --allow_off_target "${allow_off_target}" --finetune_config "${compact_config}" \
                --ngpu "${ngpu}" --latency_table "${latency_table}" \
                "${wavs[@]}"
            finish "${compact_dirs[index]}"
        fi
    done
}

# train_compact_models TITLE OPTION...: train the compact model of every target.
train_compact_models() {
    local index dir exp title=$1 options
    shift
    for index in "${!compact_dirs[@]}"; do
        dir=${compact_dirs[index]}
        exp=${compact_exps[index]}
        options=(--init_param "${dir}/model.pth" "$@")
        need "${dir}/.done" "run stage 5 first"
        if unfinished_training "${exp}" "${compact_max_epoch}" "${options[*]}" "${compact_args[*]}" \
            "$(settings_checksum "${dir}/finetune.yaml" "${dir}/.done" "${data_stamps[@]}")"; then
            "${configure[@]}" --config "${dir}/finetune.yaml" --output_dir "${exp}" \
                --max_epoch "${compact_max_epoch}" "${options[@]}" -- "${compact_args[@]}"
            run_training "stage 6: ${title}" "${exp}" "${espnet_train[@]}" \
                --config "${exp}/training.yaml" --output_dir "${exp}" "${compact_args[@]}"
            finish "${exp}"
        fi
    done
}
