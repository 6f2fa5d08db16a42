# The stages of a recipe, one after the other. To be sourced after utils/common.sh.
# shellcheck shell=bash disable=SC2154

# run_stages ARGUMENT...: run the functions stage_<number> that are asked for; titles has their names.
# The arguments are those of the script, for the log.
run_stages() {
    local number started
    log "Options: $*"
    for ((number = stage; number <= stop_stage; number++)); do
        log "Stage ${number}: ${titles[number]}"
        started=${SECONDS}
        "stage_${number}"
        log "Stage ${number}: finished in $((SECONDS - started)) s"
    done
    log "Successfully finished. [elapsed=${SECONDS}s]"
}
