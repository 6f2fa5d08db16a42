#!/usr/bin/env bash
# Make a recipe: egs2/TEMPLATE/hjprune1/setup.sh egs2/<corpus>/<task>1 [egs2/<other>/<task>1]
# It gets links to the shared scripts, a run.sh and a local/data.sh to edit, and a copy of the
# configurations of egs2/librispeech_100/asr1, or of ssl1 for one without labels (ssl1). With another
# recipe its configurations and its run.sh are copied.
set -euo pipefail

template=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd -P)
egs2=$(cd "${template}/../.." && pwd -P)
# shellcheck source=utils/common.sh
. "${egs2}/../utils/common.sh"

[[ $# =~ ^[12]$ && $1 != -* ]] ||
    die_of_usage "give a directory for the recipe: ${BASH_SOURCE[0]} egs2/<corpus>/<task>1"
target=$(realpath -m "$1")
name=$(basename "${target}")
[ "$(dirname "$(dirname "${target}")")" = "${egs2}" ] ||
    die_of_usage "$1 is not of the form ${egs2}/<corpus>/<task>1"
[[ ${name} =~ ^([a-z0-9_]*[a-z_])[0-9]+$ ]] ||
    die_of_usage "$1 does not end in a task of ESPnet and a number, such as asr1"
task=${BASH_REMATCH[1]}
default=asr1
[ "${task}" != ssl ] || default=ssl1
other=$(realpath -m "${2:-${egs2}/librispeech_100/${default}}")
[[ -d ${other}/conf && -e ${other}/run.sh ]] ||
    die "${other} has no conf and run.sh; name a recipe to copy them from"
labels=with
[ "${task}" != ssl ] || labels=without
others=with
! grep -q '^exec \./unlabelled\.sh' "${other}/run.sh" || others=without
[ "${labels}" = "${others}" ] ||
    die_of_usage "${other} is a recipe ${others} labels, and $1 would be one ${labels}; name another"
[ ! -e "${target}" ] || die "$1 exists already; remove it, or choose another name"

# Made aside, so that an interrupted run leaves nothing.
scratch=${egs2}/.${name}.$$
trap 'rm -rf "${scratch}"' EXIT
mkdir -p "${scratch}/local"
for file in hjprune.sh unlabelled.sh path.sh cmd.sh scripts; do
    ln -s "../../TEMPLATE/hjprune1/${file}" "${scratch}/${file}"
done
ln -s ../../../utils "${scratch}/utils"
cp -r "${other}/conf" "${scratch}/conf"
cp "${template}/db.sh" "${scratch}/db.sh"
cp "${template}/local/data.sh" "${scratch}/local/data.sh"
run=${template}/run.sh
[ $# -eq 1 ] || run=${other}/run.sh
if [ "${task}" = ssl ]; then
    # Without labels there are no tokens, and no task to choose.
    sed 's/hjprune\.sh/unlabelled.sh/; /^ *--\(lang\|token_type\) /d' "${run}" >"${scratch}/run.sh"
else
    sed "s/^exec .*hjprune\.sh/& --task ${task}/" "${run}" >"${scratch}/run.sh"
fi
chmod +x "${scratch}/run.sh"
mkdir -p "$(dirname "${target}")"
mv "${scratch}" "${target}"
log "$1 is made; edit its local/data.sh and run.sh (doc/add_a_recipe.md)"
