"""A recipe for another corpus, made as doc/add_a_recipe.md says, word for word."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from random import Random

import pytest
from recipe_runs import ROOT, copy_recipe, read_text, sclite_error_rate

from espnet_hjprune.constants import SAMPLE_RATE
from espnet_hjprune.synthetic.grammar import COMMANDS
from espnet_hjprune.synthetic.voices import EspeakVoice, SyntheticRecording, record_all

SETUP = "egs2/TEMPLATE/hjprune1/setup.sh"
SETS = {"train": 24, "dev": 4, "test": 5}
# In the place of the guide's own corpus.
PLACE = "/corpora/mycorpus"


@pytest.fixture(scope="module")
def checkout(tmp_path_factory) -> Path:
    """A copy of the repository's recipes."""
    root = tmp_path_factory.mktemp("checkout")
    copy_recipe(root, "librispeech_100/asr1")
    (root / "espnet_hjprune").symlink_to(ROOT / "espnet_hjprune")
    return root


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    """Recordings of two speakers in folders of their own, and a table for each set."""
    directory = tmp_path_factory.mktemp("corpus")
    sentences = iter(COMMANDS.sample(sum(SETS.values()), Random(0)))
    recordings = []
    for name, count in SETS.items():
        rows = []
        for index in range(count):
            speaker = ("ann", "bob")[index % 2]
            voice = EspeakVoice("en-us" if index % 2 else "en-gb", "f", 150 + index, 50)
            text = next(sentences)
            path = f"{speaker}/{name} {index}.wav"
            (directory / speaker).mkdir(exist_ok=True)
            recordings.append(SyntheticRecording(directory / path, text.lower(), voice))
            rows.append(f"{path}\t{speaker}\t{text}\n")
        (directory / f"{name}.tsv").write_text("".join(rows))
    record_all(recordings, SAMPLE_RATE, 0, 2)
    return directory


def run(command: list[str], directory: Path) -> subprocess.CompletedProcess[str]:
    """Run a command and keep what it prints."""
    return subprocess.run(command, cwd=directory, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_the_guide_leads_to_a_scored_compact_model(checkout, corpus):
    guide = (ROOT / "doc/add_a_recipe.md").read_text(encoding="utf-8")
    steps = re.findall(r"^```sh\n(.*?)^```$", guide, re.S | re.M)
    assert len(steps) == 3 and PLACE in steps[1]
    script = "set -euo pipefail\n" + "".join(steps).replace(PLACE, str(corpus))
    done = run(["bash", "-c", script], checkout)
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
    assert "HJ-Pruning-MAC 40 %" in done.stdout
    recipe = checkout / "egs2/mycorpus/asr1"
    for name, count in SETS.items():
        assert len(read_text(recipe / f"dump/raw/{name}/text")) == count
    wavs = read_text(recipe / "data/train/wav.scp")
    assert wavs["ann-ann_train_0"] == f"{corpus}/ann/train 0.wav"
    for test_set in ("test", "dev"):
        (result,) = recipe.glob(f"exp/asr_compact_*/*/{test_set}/score_wer/result.txt")
        assert sclite_error_rate(result) > 0
    (model,) = recipe.glob("exp/asr_prune_macs_0.4_*/compact/model.pth")
    assert model.is_file()


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        ([], 2, "give a directory for the recipe"),
        (["--help"], 2, "give a directory for the recipe"),
        (["egs2/a"], 2, "is not of the form"),
        (["elsewhere/a/asr1"], 2, "is not of the form"),
        (["egs2/a/asr"], 2, "does not end in a task of ESPnet and a number"),
        (["egs2/slurp/asr1"], 1, "egs2/slurp/asr1 exists already"),
        (["egs2/a/asr1", "egs2/nothing/asr1"], 1, "has no conf and run.sh"),
    ],
)
def test_wrong_names_make_nothing(checkout, arguments, status, message):
    before = sorted(checkout.glob("egs2/*/*"))
    done = run([str(checkout / SETUP), *arguments], checkout)
    assert done.returncode == status
    assert message in done.stderr and done.stderr.count("\n") == 1
    assert sorted(checkout.glob("egs2/*/*")) == before


def test_another_recipe_and_task_can_be_the_model(checkout):
    done = run([str(checkout / SETUP), "egs2/other/slu1", "egs2/slurp/asr1"], checkout)
    assert done.returncode == 0, done.stderr
    recipe = checkout / "egs2/other/slu1"
    run_sh = (recipe / "run.sh").read_text()
    assert "exec ./hjprune.sh --task slu \\\n" in run_sh and "--metric accuracy" in run_sh
    conf = (recipe / "conf/tuning/prune.yaml").read_text()
    assert conf == (checkout / "egs2/slurp/asr1/conf/tuning/prune.yaml").read_text()
    shown = run(["./run.sh", "--help"], recipe)
    assert shown.returncode == 0 and "--method" in shown.stdout


def test_the_template_names_a_wrong_table(checkout, tmp_path):
    recipe = checkout / "egs2/tables/asr1"
    assert run([str(checkout / SETUP), str(recipe)], checkout).returncode == 0
    command = ["env", f"CORPUS={tmp_path}", "./run.sh", "--stop_stage", "1"]
    assert f"{tmp_path}/train.tsv is missing; correct CORPUS" in run(command, recipe).stderr
    (tmp_path / "train.tsv").write_text("a.wav\tann\n")
    done = run(command, recipe)
    assert done.returncode == 1
    assert f"{tmp_path}/train.tsv has a line other than audio, speaker" in done.stderr
    assert not (recipe / "data/.stage1/.done").exists()
