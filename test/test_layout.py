"""The rooms of the house: what may import what, read off the imports themselves."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
from recipe_runs import ROOT

PACKAGE = ROOT / "espnet_hjprune"
# Every room may import itself, the modules at the top (the ground) and these.
ALLOWED: dict[str, set[str]] = {
    "nn": set(),
    "pruning": {"nn"},
    "upstream": {"nn"},
    "model": {"nn", "pruning", "upstream"},
    "inference": {"nn", "model", "data", "scoring"},
    "export": {"nn", "pruning", "upstream", "model", "inference", "data", "scoring"},
    "benchmark": {"nn", "pruning", "upstream", "model", "inference", "export", "data", "training"},
    "espnet": {"nn", "pruning", "upstream", "model"},
    "data": set(),
    "corpora": {"data"},
    "synthetic": {"nn", "upstream", "data", "corpora"},
    "training": set(),
    "scoring": {"data"},
    "recipe": {"pruning", "model", "data", "scoring", "training"},
    "report": {"scoring", "training"},
    "sweep": {"recipe", "report", "scoring"},
    # The seam between the package and ESPnet's imports, and the interface of all.
    "plugin": {"espnet"},
    "__init__": {"model", "pruning"},
}


def modules() -> dict[str, Path]:
    """All modules of the package by their names."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = modules()


def imports_of(path: Path) -> Iterator[tuple[str, bool]]:
    """Modules that a file imports anywhere, and whether at the time of its own import."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    top = set(ast.walk(ast.Module([n for n in tree.body if not _is_late(n)], [])))
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, node in top
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield inner if inner in MODULES else node.module, node in top


def _is_late(node: ast.stmt) -> bool:
    typing = isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
    return typing or isinstance(node, ast.FunctionDef | ast.ClassDef)


def room_of(module: str) -> str:
    """The room of a module of the package, or its own name on the ground."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else "__init__"


@pytest.mark.parametrize("module", [m for m in MODULES if room_of(m) != "bin"])
def test_no_arrow_points_up(module):
    room = room_of(module)
    for name, _ in imports_of(MODULES[module]):
        if name.split(".")[0] != "espnet_hjprune" or room_of(name) == room:
            continue
        on_the_ground = f"espnet_hjprune.{room_of(name)}" == name and MODULES[name].name != (
            "__init__.py"
        )
        assert on_the_ground or room_of(name) in ALLOWED.get(room, set()), f"{module} -> {name}"


@pytest.mark.parametrize("module", MODULES)
def test_espnet_is_imported_by_its_glue_and_by_nothing_else(module):
    names = [name.split(".")[0] for name, _ in imports_of(MODULES[module])]
    if room_of(module) == "espnet":
        assert "espnet2" in names or MODULES[module].name == "__init__.py"
    else:
        assert "espnet2" not in names


def test_no_module_imports_itself_by_others():
    arrows = {
        module: {name for name, at_import in imports_of(path) if at_import and name in MODULES}
        for module, path in MODULES.items()
    }
    done: set[str] = set()

    def visit(module: str, way: list[str]) -> None:
        assert module not in way, " -> ".join([*way[way.index(module) :], module])
        if module not in done:
            for name in sorted(arrows[module]):
                visit(name, [*way, module])
            done.add(module)

    for module in arrows:
        visit(module, [])


def test_public_commands_are_those_of_the_console_script():
    from espnet_hjprune.bin.hjprune import COMMANDS

    files = {path.stem for path in (PACKAGE / "bin").glob("*.py")}
    assert files - {"__init__", "cli", "hjprune"} == set(COMMANDS)
