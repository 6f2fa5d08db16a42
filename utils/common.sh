# Functions of all recipe scripts; to be sourced.
# shellcheck shell=bash

# Log in ESPnet's format: time, script, line, function.
log() {
    local fname=${BASH_SOURCE[1]##*/}
    echo "$(date '+%Y-%m-%dT%H:%M:%S') (${fname}:${BASH_LINENO[0]}:${FUNCNAME[1]}) $*"
}

# End with one sentence on standard error.
die() {
    echo "error: $*" >&2
    exit 1
}

# The same for a wrong option or argument.
die_of_usage() {
    echo "error: $*" >&2
    exit 2
}

# need FILE SENTENCE: end with the sentence unless the file or directory exists.
need() {
    [ -e "$1" ] || die "$1 is missing; $2"
}

# define_options USAGE <TABLE: set the variable of every option to its default and note its name.
# A line of the table is "--name default  what it is"; a default of several words has double
# quotes around it, and "" is none. Usage and table are what --help prints.
define_options() {
    local line pattern='^ *--([a-z_]+) +("([^"]*)"|[^ ]+) '
    option_table=$(cat)
    option_help="Usage: $1"$'\n\n'${option_table}
    option_names=()
    given_options=()
    declare -gA renamed_options=()
    while IFS= read -r line; do
        if [[ ${line} =~ ${pattern} ]]; then
            option_names+=("${BASH_REMATCH[1]}")
            if [[ ${BASH_REMATCH[2]} = \"* ]]; then
                printf -v "${BASH_REMATCH[1]}" '%s' "${BASH_REMATCH[3]}"
            else
                printf -v "${BASH_REMATCH[1]}" '%s' "${BASH_REMATCH[2]}"
            fi
        fi
    done <<<"${option_table}"
}

# parse_options ARGUMENT...: set the variables of the options that are given as "--name value" or
# "--name=value". ${renamed_options[OLD]} is what an option is called now.
parse_options() {
    local name
    while [ $# -gt 0 ]; do
        case "$1" in
            --help | -h)
                echo "${option_help}"
                exit 0
                ;;
            --*=*)
                set -- "${1%%=*}" "${1#*=}" "${@:2}"
                ;;
            --*)
                name=${1#--}
                name=${name//-/_}
                if [ -n "${renamed_options[${name:-none}]:-}" ]; then
                    name=${renamed_options[${name}]}
                    log "$1 is called --${name} now"
                fi
                [[ ${name} != *\ * && " ${option_names[*]} " == *" ${name} "* ]] ||
                    die_of_usage "there is no option $1; --help lists the options"
                [ $# -ge 2 ] || die_of_usage "the option $1 needs a value"
                printf -v "${name}" '%s' "$2"
                given_options+=("${name}")
                shift 2
                ;;
            *)
                die_of_usage "the argument '$1' is not expected; options are given as --name value"
                ;;
        esac
    done
}

# given_after NAME OTHER: the first option was given, and the second not at all or before it.
given_after() {
    [[ " ${given_options[*]} " =~ .*\ ($1|$2)\  && ${BASH_REMATCH[1]} = "$1" ]]
}

# check_flags NAME...: the options are true or false.
check_flags() {
    local name
    for name in "$@"; do
        [[ ${!name} =~ ^(true|false)$ ]] ||
            die_of_usage "--${name} must be true or false, not '${!name}'"
    done
}
