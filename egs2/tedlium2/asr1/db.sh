# Where the corpora are; sourced by local/data.sh.
# shellcheck shell=bash disable=SC2034

# Directory that holds TEDLIUM_release2/. With "downloads", what is missing is downloaded.
TEDLIUM2=${TEDLIUM2:-downloads}
