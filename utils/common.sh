# Functions of all recipe scripts; to be sourced.
# shellcheck shell=bash

# Log in ESPnet's format: time, script, line, function.
log() {
    local fname=${BASH_SOURCE[1]##*/}
    echo "$(date '+%Y-%m-%dT%H:%M:%S') (${fname}:${BASH_LINENO[0]}:${FUNCNAME[1]}) $*"
}

# End with one sentence on standard error; the exit status is ${status} or 1.
die() {
    echo "error: $*" >&2
    exit "${status:-1}"
}

# Set the variable NAME for every option "--NAME VALUE". Only variables that are listed in
# ${option_names} are options. "--help" prints ${help_message}.
# shellcheck disable=SC2154 # both are set by the script that sources this
parse_options() {
    while [ $# -gt 0 ]; do
        case "$1" in
            --help | -h)
                echo "${help_message}"
                exit 0
                ;;
            --*=*)
                set -- "${1%%=*}" "${1#*=}" "${@:2}"
                ;;
            --*)
                local name=${1#--}
                name=${name//-/_}
                [[ " ${option_names} " == *" ${name} "* ]] ||
                    status=2 die "there is no option $1; --help lists the options"
                [ $# -ge 2 ] || status=2 die "the option $1 needs a value"
                printf -v "${name}" '%s' "$2"
                shift 2
                ;;
            *)
                status=2 die "the argument '$1' is not expected; options are given as --name value"
                ;;
        esac
    done
}

# is_number VALUE: a number such as 3, 0.4 or .5
is_number() {
    [[ $1 =~ ^([0-9]+(\.[0-9]*)?|\.[0-9]+)$ ]]
}

# need FILE SENTENCE: end with the sentence unless the file or directory exists.
need() {
    [ -e "$1" ] || die "$1 is missing; $2"
}
