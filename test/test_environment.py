"""The package in an environment that has only what its base installation asks for."""

from __future__ import annotations

import os
import subprocess
import sys
import venv
from importlib.metadata import Distribution, distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from recipe_runs import ROOT

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
