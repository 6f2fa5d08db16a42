# Token list and shapes, which stage 2 makes, or stage 3 where others have made dump/raw.
# To be sourced after utils/common.sh, scripts/jobs.sh and scripts/stamps.sh; the options of
# hjprune.sh and the names that it makes must be set.
# shellcheck shell=bash disable=SC2154

# Check the formatted data, and make the token list and the shapes.
prepare_tokens() {
    local part set token_args=(--token_type "${token_type}")
    "${python[@]}" -m espnet_hjprune.bin.recipe.check_dump --audio_format "${audio_format}" \
        --train_dir "${raw_dir}/"{"${train_set}","${valid_set}"} \
        --test_dir "${test_sets[@]/#/${raw_dir}/}"
    if [ "${token_type}" = bpe ]; then
        token_args+=(--nbpe "${nbpe}" --bpemode "${bpemode}" --bpemodel_prefix "${bpemodel%.model}")
    fi
    ! ${init_ctc} || token_args+=(--vocabulary "${upstream_ckpt}")
    if unfinished "${token_dir}" "${token_args[*]}" \
        "$(checksum "${raw_dir}/${train_set}/text")"; then
        run_job "${token_dir}" "${python[@]}" -m espnet_hjprune.bin.recipe.token_list \
            --text "${raw_dir}/${train_set}/text" --output "${token_list}" "${token_args[@]}"
        finish "${token_dir}"
    fi
    for part in train valid; do
        set=${part}_set
        if unfinished "${stats_dir}/${part}" "$(checksum "${token_list}")" \
            "$(data_checksum "${raw_dir}/${!set}")"; then
            run_job "${stats_dir}/${part}" "${python[@]}" -m espnet_hjprune.bin.recipe.shapes \
                --data_dir "${raw_dir}/${!set}" --out_dir "${stats_dir}/${part}" \
                --token_list "${token_list}" --token_type "${token_type}" --bpemodel "${bpemodel}"
            finish "${stats_dir}/${part}"
        fi
    done
}
