"""Environments: one with only what the base installation asks for, and those of odd machines."""

from __future__ import annotations

import os
import subprocess
import sys
import venv
from importlib.metadata import Distribution, distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from recipe_runs import ROOT, copy_recipe

ABSENT = ("espnet", "espnet2", "s3prl", "torchaudio", "transformers", "matplotlib", "kaldiio")


def required(name: str, extra: str = "", found: dict[str, Distribution] | None = None) -> dict:
    """Distributions that one needs, itself included, by name."""
    found = {} if found is None else found
    own = distribution(name)
    if own.name in found and not extra:
        return found
    found[own.name] = own
    for line in own.requires or []:
        requirement = Requirement(line)
        if requirement.marker is None or requirement.marker.evaluate({"extra": extra}):
            for inner in requirement.extras or {""}:
                required(requirement.name, inner, found)
    return found


@pytest.fixture(scope="module")
def python(tmp_path_factory) -> Path:
    """The interpreter of an environment with links to the base requirements only."""
    directory = tmp_path_factory.mktemp("base")
    venv.create(directory, with_pip=False, symlinks=True)
    (site,) = directory.glob("lib/python*/site-packages")
    for found in required("espnet_hjprune").values():
        for file in found.files or []:
            top = file.parts[0]
            source = Path(found.locate_file(top))
            target = site / top
            if top not in ("..", "__pycache__") and source.exists() and not target.exists():
                target.symlink_to(source.resolve())
    (site / "house.pth").write_text(f"{ROOT}\n")
    return directory / "bin" / "python"


def run(python: Path, *arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run the interpreter without what this process has on its path."""
    environment = {n: v for n, v in os.environ.items() if n not in ("PYTHONPATH", "PYTHONHOME")}
    environment["OMP_NUM_THREADS"] = "1"
    command = [str(python), *arguments]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True)


def test_it_is_imported_and_trains_without_espnet_and_s3prl(python, tmp_path):
    absent = run(
        python,
        "-c",
        "import importlib.util; "
        f"print([name for name in {ABSENT!r} if importlib.util.find_spec(name)])",
        cwd=tmp_path,
    )
    assert absent.stdout.strip() == "[]", absent.stderr
    example = run(python, str(ROOT / "examples" / "prune_any_model.py"), cwd=tmp_path)
    assert example.stdout.startswith("40.0"), example.stderr[-2000:]
    assert (tmp_path / "compact" / "model.pth").is_file()


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["profile", "--upstream", "wav2vec2_base"], "94,371,712"),
        (["profile", "--table"], "hubert_large"),
    ],
)
def test_commands_that_need_nothing_else(python, tmp_path, arguments, expected):
    result = run(python, "-m", "espnet_hjprune.bin.hjprune", *arguments, cwd=tmp_path)
    assert expected in result.stdout, result.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["profile", "--upstream", "wav2vec2_base_960"], "s3prl is not installed"),
        (["nothing"], "there is no command nothing"),
    ],
)
def test_what_is_missing_is_said_in_one_sentence(python, tmp_path, arguments, message):
    result = run(python, "-m", "espnet_hjprune.bin.hjprune", *arguments, cwd=tmp_path)
    assert result.returncode != 0
    assert result.stderr.splitlines()[-1].startswith("error: "), result.stderr
    assert message in result.stderr


def test_a_comparison_goes_on_without_a_package_unless_it_is_asked_for(python, tmp_path):
    arguments = ("--upstream", "wav2vec2_mini", "--seconds", "1", "--targets")
    command = ("-m", "espnet_hjprune.bin.hjprune", "bench", *arguments)
    result = run(python, *command, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "s3prl is left out of the comparison, as it cannot be imported" in result.stderr
    assert "speed-up against dense" in result.stdout
    result = run(python, *command, "--peers", "s3prl", cwd=tmp_path)
    assert result.returncode == 1 and not result.stdout
    assert "error: --peers has s3prl, which cannot be imported" in result.stderr


def test_this_process_has_more(python):
    assert Path(sys.executable).resolve() == python.resolve()


# The environment of the recipes

PATH_SH = "egs2/TEMPLATE/hjprune1/path.sh"
CACHES = ("NUMBA_CACHE_DIR", "MPLCONFIGDIR", "TORCH_HOME", "HF_HOME")
SHOWN = ("PYTHONPATH", "PATH", *CACHES)


def recipe_environment(
    root: Path, has_environment: bool = True, **variables: str | None
) -> tuple[dict[str, str], str]:
    """What path.sh of a checkout sets, sourced in a recipe; and what it warns of."""
    recipe = root / "egs2" / "corpus" / "asr1"
    recipe.mkdir(parents=True, exist_ok=True)
    (root / PATH_SH).parent.mkdir(parents=True, exist_ok=True)
    (root / PATH_SH).write_text((ROOT / PATH_SH).read_text())
    (recipe / "path.sh").unlink(missing_ok=True)
    (recipe / "path.sh").symlink_to("../../TEMPLATE/hjprune1/path.sh")
    if has_environment:
        (root / "tools/venv/bin").mkdir(parents=True, exist_ok=True)
    environment = {n: v for n, v in os.environ.items() if n not in ("PYTHONPATH", *CACHES)}
    environment |= {name: value for name, value in variables.items() if value is not None}
    for name in (name for name, value in variables.items() if value is None):
        environment.pop(name, None)
    show = "".join(f'printf "%s\\0" "${{{name}:-}}"; ' for name in SHOWN)
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", f". ./path.sh; {show}"],
        cwd=recipe,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    return dict(zip(SHOWN, done.stdout.split("\0"), strict=False)), done.stderr


@pytest.mark.parametrize("name", ["checkout", "my cöpy"])
def test_another_espnet_is_left_out_where_there_is_an_environment(name, tmp_path):
    root = tmp_path / name
    for package in ("old espnet/espnet2", "old/s3prl", "tools of mine/mine"):
        (tmp_path / package).mkdir(parents=True)
    places = [tmp_path / "old espnet", tmp_path / "old", tmp_path / "tools of mine"]
    given = ":".join(map(str, places))
    found, warnings = recipe_environment(root, PYTHONPATH=f"{given}:")
    assert found["PYTHONPATH"] == f"{root}:{places[2]}"
    assert found["PATH"].startswith(f"{root}/tools/venv/bin:")
    said = [line.partition(" on PYTHONPATH has another ")[0] for line in warnings.splitlines()]
    assert said == [f"warning: {place}" for place in places[:2]]
    # What starts from there says nothing more, and a user's own environment has its own ESPnet.
    assert recipe_environment(root, PYTHONPATH=found["PYTHONPATH"]) == (found, "")
    own, warnings = recipe_environment(tmp_path / f"{name} 2", False, PYTHONPATH=given)
    assert own["PYTHONPATH"] == f"{tmp_path / name} 2:{given}" and not warnings
    assert recipe_environment(root)[0]["PYTHONPATH"] == str(root)


@pytest.mark.parametrize("home", ["/proc/nope", "a file", "unset", "writable", "with caches"])
def test_caches_have_a_place_where_home_has_none(home, tmp_path):
    (tmp_path / "a file").touch()
    for directory in ("writable", "with caches/.cache/huggingface"):
        (tmp_path / directory).mkdir(parents=True)
    variables = {"HOME": None if home == "unset" else str(tmp_path / home)}
    found, warnings = recipe_environment(tmp_path / "root", **variables)
    place = tmp_path / "root/egs2/corpus/asr1/downloads/cache"
    expected = {
        name: str(place / part)
        for name, part in zip(CACHES, ("numba", "matplotlib", "torch", "huggingface"), strict=True)
    }
    # Without HOME, the home directory is that of the user.
    if home in ("writable", "with caches", "unset"):
        expected = dict.fromkeys(CACHES, "")
    assert {name: found[name] for name in CACHES} == expected
    assert not warnings
    if home == "a file":
        own = recipe_environment(tmp_path / "root", **variables, MPLCONFIGDIR="/my own")[0]
        assert own == found | {"MPLCONFIGDIR": "/my own"}


def test_setup_finds_uv_without_a_home():
    script = "log() { :; }; die() { echo died; exit 3; }; . tools/uv.sh; find_uv || echo none"
    environment = {n: v for n, v in os.environ.items() if n != "HOME"}
    command = ["bash", "-euo", "pipefail", "-c", script]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.strip() and not done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("home", [None, "a file"])
def test_all_stages_in_an_odd_place(home, tmp_path, monkeypatch):
    """Blanks and letters beyond ASCII in the path, no home directory, an old ESPnet beside."""
    settings = [
        "--mini", "true", "--token_type", "bpe", "--nbpe", "40", "--test_sets", "test_clean",
        "--mini_opts", "--num_train 32 --num_dev_clean 2 --num_dev_other 2 --num_test_clean 4 "
        "--num_test_other 2 --num_test_tedlium 2 --nj 2", "--ramp_epochs", "1",
        "--allow_off_target", "true", "--inference_nj", "1",
        "--train_args", "--max_epoch 1 --num_workers 0",
        "--prune_args", "--max_epoch 2 --num_workers 0",
        "--compact_args", "--max_epoch 1 --num_workers 0",
    ]  # fmt: skip
    (tmp_path / "old espnet/espnet2").mkdir(parents=True)
    (tmp_path / "old espnet/espnet2/__init__.py").write_text("raise RuntimeError('too old')")
    (tmp_path / "a file").touch()
    recipe = copy_recipe(tmp_path / "my cöpy", "librispeech_100/asr1", *settings)
    monkeypatch.setenv("PYTHONPATH", f"{ROOT}:{tmp_path / 'old espnet'}")
    if home is None:
        monkeypatch.delenv("HOME")
    else:
        monkeypatch.setenv("HOME", str(tmp_path / home))
    output = recipe.run()
    assert "Successfully finished" in output and "has another ESPnet or s3prl" in output
    assert recipe.only("exp/asr_compact_*/RESULTS.md").is_file()
    recipe.run("--stage", "7", "--decoder", "espnet")
