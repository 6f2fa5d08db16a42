# The options of hjprune.sh and unlabelled.sh are checked and completed in Python (espnet_hjprune/recipe/options.py).
# To be sourced after utils/common.sh.
# shellcheck shell=bash disable=SC2154 # option_names is set by define_options

# complete_options COMMAND...: give all options to the command, and take over what it prints, as
# "name=value" lines.
complete_options() {
    local name line completed given=()
    command -v -- "${1:-}" >/dev/null || die_of_usage "--python '${1:-}' is no program"
    for name in "${option_names[@]}"; do
        given+=("${name}=${!name}")
    done
    completed=$("$@" "${given[@]}") || exit $?
    while IFS= read -r line; do
        printf -v "${line%%=*}" '%s' "${line#*=}"
    done <<<"${completed}"
}

# split_words NAME...: make arrays of these variables, of their words.
split_words() {
    local name
    for name in "$@"; do
        read -ra "${name?}" <<<"${!name}"
    done
}
