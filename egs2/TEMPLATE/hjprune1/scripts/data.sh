# Data directories and formatted data, which stages 1 and 2 make.
# To be sourced after utils/common.sh, scripts/jobs.sh and scripts/stamps.sh; the options of the
# script and the names that it makes must be set.
# shellcheck shell=bash disable=SC2034,SC2154 # the scripts have the options and use what is set

# Options where transcripts and speakers are not used: see use_audio_alone.
audio_only=()

# Read no table of a data directory but those on audio.
use_audio_alone() {
    audio_only=(--audio_only true)
    data_tables=(wav.scp segments utt2num_samples)
}

# Make data/ by local/data.sh, and the mini upstream if there is one.
prepare_data() {
    local args=("${local_data_opts[@]}") made=downloads/mini/.${make_upstream}
    ! ${mini} || args=(--mini true --mini_opts "${mini_opts}" "${args[@]}")
    mkdir -p data
    [ -e "data/${original_train_set}/wav.scp" ] || rm -f data/.stage1/.done
    if unfinished data/.stage1 "${mini}" "${mini_opts}" "${local_data_opts[*]}" \
        "$(corpus_places)" "$(tree_checksum local)"; then
        run_job data/.stage1 local/data.sh "${args[@]}"
        finish data/.stage1
    fi
    [ -n "${make_upstream}" ] || return 0
    [ -e "${upstream_ckpt}" ] || rm -f "${made}/.done"
    if unfinished "${made}" "${mini_pretrain_epochs}" \
        "$(data_checksum "data/${original_train_set}")"; then
        run_job "${made}" "${python[@]}" -m espnet_hjprune.bin.recipe.mini_upstream \
            --name "${make_upstream}" --output "${upstream_ckpt}" \
            --epochs "${mini_pretrain_epochs}" --data_dir "data/${original_train_set}"
        finish "${made}"
    fi
}

# Bring the audio of all sets into the form that trainings read.
format_sets() {
    local set made_with=data/.stage1/.options limits
    if [ -e "${made_with}" ] && [ "$(head -n 1 "${made_with}")" != "${mini}" ]; then
        die "data/ was made with --mini $(head -n 1 "${made_with}"), not ${mini}; run stage 1 first"
    fi
    if [ ${#speed_perturb_factors[@]} -gt 0 ]; then
        need "data/${original_train_set}/wav.scp" "run stage 1 first"
        check_output "data/${train_set}" "data/.${train_set}"
        if unfinished "data/.${train_set}" "${speed_perturb_factors[*]}" \
            "$(data_checksum "data/${original_train_set}")"; then
            run_job "data/.${train_set}" "${python[@]}" -m espnet_hjprune.bin.recipe.perturb_speed \
                --in_dir "data/${original_train_set}" --out_dir "data/${train_set}" \
                --factors "${speed_perturb_factors[@]}" --nj "${nj}"
            finish "data/.${train_set}"
        fi
    fi
    for set in "${train_set}" "${valid_set}" "${test_sets[@]}"; do
        need "data/${set}/wav.scp" "run stage 1 first"
        limits=("${audio_only[@]}")
        [ ${#audio_only[@]} -gt 0 ] || [[ " ${test_sets[*]} " != *" ${set} "* ]] ||
            limits=(--scored true)
        [[ " ${train_set} ${valid_set} " != *" ${set} "* ]] ||
            limits+=(--min_wav_duration "${min_wav_duration}" --max_wav_duration "${max_wav_duration}")
        check_output "${raw_dir}/${set}" "${raw_dir}/.${set}"
        if unfinished "${raw_dir}/.${set}" "${audio_format}" "${fs}" "${limits[*]}" \
            "$(data_checksum "data/${set}")"; then
            run_job "${raw_dir}/.${set}" "${python[@]}" -m espnet_hjprune.bin.recipe.format_data \
                --in_dir "data/${set}" --out_dir "${raw_dir}/${set}" --fs "${fs}" \
                --audio_format "${audio_format}" --nj "${nj}" "${limits[@]}"
            finish "${raw_dir}/.${set}"
        fi
    done
}

# check_dumps OPTION...: check the formatted data, which ESPnet's own recipe may have made.
check_dumps() {
    "${python[@]}" -m espnet_hjprune.bin.recipe.check_dump --audio_format "${audio_format}" "$@" \
        --train_dir "${raw_dir}/"{"${train_set}","${valid_set}"} \
        --test_dir "${test_sets[@]/#/${raw_dir}/}"
}

# write_shapes INPUT OPTION...: write the lengths of training and validation set; INPUT is what they
# depend on beside the data.
write_shapes() {
    local part set input=$1
    shift
    for part in train valid; do
        set=${part}_set
        if unfinished "${stats_dir}/${part}" "${input}" "$(data_checksum "${raw_dir}/${!set}")"; then
            run_job "${stats_dir}/${part}" "${python[@]}" -m espnet_hjprune.bin.recipe.shapes \
                --data_dir "${raw_dir}/${!set}" --out_dir "${stats_dir}/${part}" "$@"
            finish "${stats_dir}/${part}"
        fi
    done
}
