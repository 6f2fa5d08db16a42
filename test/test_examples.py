"""The examples run as they are, reach their target, and are the ones that the README shows."""

from __future__ import annotations

import re
import runpy
from typing import Any

import pytest
import torch
from recipe_runs import ROOT

import espnet_hjprune as hj

EXAMPLES = ROOT / "examples"


def run(name: str, monkeypatch: pytest.MonkeyPatch, directory: Any) -> dict[str, Any]:
    """Run an example in a directory and return its variables."""
    monkeypatch.chdir(directory)
    torch.manual_seed(0)
    return runpy.run_path(str(EXAMPLES / f"{name}.py"))


@pytest.mark.parametrize("name", ["prune_any_model", "prune_with_lightning"])
def test_examples_reach_their_target(name, monkeypatch, tmp_path):
    result = run(name, monkeypatch, tmp_path)["result"]
    sparsity = result.summary["sparsity"]
    assert 0.4 <= sparsity["actual"] <= 0.4004
    assert sparsity["expected"] == pytest.approx(0.4, abs=0.03)
    assert result.summary["max_abs_diff"] <= 1e-5
    if name == "prune_any_model":
        encoder = hj.load(tmp_path / "compact")
        wave = torch.randn(1, 8000)
        with torch.no_grad():
            states, _ = encoder(wave, torch.tensor([8000]))
            expected, _ = result.upstream.eval()(wave, torch.tensor([8000]))
        assert torch.equal(states[-1], expected)


def test_the_readme_shows_the_example():
    text = (EXAMPLES / "prune_any_model.py").read_text()
    code = text.split('"""\n\n', 1)[1]
    shown = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert code in shown
    assert len([line for line in code.splitlines() if line]) <= 25
