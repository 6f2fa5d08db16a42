# Token list and shapes, which stage 2 makes, or stage 3 where others have made dump/raw.
# To be sourced after utils/common.sh, scripts/jobs.sh, scripts/stamps.sh and scripts/data.sh; the options of
# hjprune.sh and the names that it makes must be set.
# shellcheck shell=bash disable=SC2154

# Check the formatted data, and make the token list and the shapes.
prepare_tokens() {
    local token_args=(--token_type "${token_type}")
    check_dumps
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
    write_shapes "$(checksum "${token_list}")" --token_list "${token_list}" \
        --token_type "${token_type}" --bpemodel "${bpemodel}"
}
