"""The page of a sweep in a real browser."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from test_sweep import CONFIG, recipe, run  # noqa: F401

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
BROWSER = next((path for name in BROWSERS if (path := shutil.which(name))), None)
pytestmark = pytest.mark.skipif(
    BROWSER is None, reason=f"none of the browsers {', '.join(BROWSERS)} is installed"
)
# What the browser made of the page, written into the page for the browser to print.
PROBE = """
<script>
addEventListener("load", () => {
  const page = document.documentElement;
  const seen = {
    images: [...document.images].map(i => [i.complete, i.naturalWidth, i.clientWidth, i.alt]),
    rows: [...document.querySelectorAll("tr")].map(r => [...r.cells].map(c => c.textContent)),
    titles: [...document.querySelectorAll("h1, h2")].map(h => h.textContent),
    overflow: page.scrollWidth - page.clientWidth,
    width: innerWidth,
    loaded: performance.getEntriesByType("resource").map(r => r.name.slice(0, 20)),
  };
  const note = document.createElement("pre");
  note.id = "seen";
  note.textContent = JSON.stringify(seen);
  document.body.append(note);
});
</script>
"""


def look_at(page: Path, width: int, scratch: Path) -> dict:
    """Open a page in a window of some width and return what is seen."""
    probed = scratch / "probed.html"
    probed.write_text(page.read_text().replace("</body>", PROBE + "</body>"))
    command = [
        BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run",
        "--disable-background-networking", "--disable-component-update", "--disable-sync",
        f"--user-data-dir={scratch / 'profile'}", f"--window-size={width},1000",
        "--virtual-time-budget=10000", "--dump-dom", probed.resolve().as_uri(),
    ]  # fmt: skip
    result = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr[-2000:]
    found = re.search(r'<pre id="seen">(.*?)</pre>', result.stdout, re.DOTALL)
    assert found, result.stdout[-2000:]
    return json.loads(found[1].replace("&amp;", "&").replace("&lt;", "<").replace("&gt;", ">"))


@pytest.mark.parametrize("width", [1400, 600])
def test_the_page_shows_tables_and_figures(recipe, tmp_path, width):  # noqa: F811
    grid = ["cnn=0.5 transformer=0.3", "cnn=0.3 transformer=0.5"]
    grids = [*CONFIG["grids"], {"methods": ["sepsize"], "targets": grid, "upstreams": ["a"]}]
    Path("sweep.yaml").write_text(yaml.safe_dump(CONFIG | {"grids": grids}))
    run()
    directory = Path("exp/sweep_test")
    seen = look_at(directory / "index.html", width, tmp_path)
    assert seen["titles"] == ["Sweep test", "a", "b"]
    figures = sorted(path.name for path in (directory / "images").iterdir())
    assert len(seen["images"]) == len(figures) > 5
    for complete, natural_width, shown_width, text in seen["images"]:
        assert complete and natural_width > 500 and text
        assert 0 < shown_width <= seen["width"]
    assert not [name for name in seen["loaded"] if not name.startswith("data:")]
    assert seen["overflow"] <= 0, "the page is wider than the window"
    markdown = [
        [cell.strip() for cell in line.strip("|\n").split("|")]
        for line in (directory / "RESULTS.md").read_text().splitlines()
        if line.startswith("|") and not set(line) <= set("|-: ")
    ]
    assert seen["rows"] == markdown
