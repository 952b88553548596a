"""Nothing imports upwards, nothing imports in a circle, and the repository keeps what it promises about itself."""

from __future__ import annotations

import ast
import re
import subprocess
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "wavlm_lightning"
FLOORS: list[set[str]] = [
    {"encoder", "system"},
    {"audio", "metrics", "augment"},
    {"data", "upstreams", "reports", "training"},
    {"codebooks", "tasks"},
    {"pretraining"},
    {"callbacks"},
    {"workflows"},
    {"cli"},
]
"""A package imports only from floors below its own (see CONTRIBUTING.md)."""
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in PACKAGE.rglob("*.py")
}


def imported(path: Path) -> set[str]:
    """Modules of ours that a file imports: at its top, inside functions, and under TYPE_CHECKING."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                found.add(inner if inner in MODULES else node.module)
    return {name for name in found if name in MODULES}


@cache
def graph() -> dict[str, set[str]]:
    """What each module imports; not read when this file is imported, which each worker of pytest-xdist does."""
    return {name: imported(path) - {name} for name, path in MODULES.items()}


def package(module: str) -> str:
    return module.split(".")[1] if "." in module else ""


@pytest.mark.parametrize("name", sorted(set().union(*FLOORS)))
def test_nothing_imports_upwards(name):
    height = next(number for number, floor in enumerate(FLOORS) if name in floor)
    below = set().union(*FLOORS[:height])
    wrong = {
        f"{module} imports {other}"
        for module, others in graph().items()
        if package(module) == name
        for other in others
        if package(other) not in below | {name, ""}
    }
    assert not wrong


def test_every_package_has_its_floor():
    packages = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert packages == set().union(*FLOORS)


def circles(graph: dict[str, set[str]]) -> list[list[str]]:
    """Groups of modules that import each other (strongly connected components of more than one)."""
    reach: dict[str, set[str]] = {}
    for start in graph:
        seen: set[str] = set()
        pending = [*graph[start]]
        while pending:
            name = pending.pop()
            if name not in seen:
                seen.add(name)
                pending += graph.get(name, ())
        reach[start] = seen
    groups = {tuple(sorted({a, *(b for b in reach[a] if a in reach[b])})) for a in graph if a in reach[a]}
    return sorted(map(list, groups))


def test_the_search_for_circles_finds_one():
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}) == [["a", "b", "c"]]


def test_no_two_files_import_each_other():
    assert circles(graph()) == []


@pytest.mark.parametrize("folder", sorted({path.parent for path in MODULES.values()}), ids=str)
def test_a_folder_holds_at_most_twenty_files(folder):
    assert len([*folder.glob("*.py")]) <= 20


def tracked() -> list[Path]:
    names = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\n")
    return [ROOT / name for name in names if name and (ROOT / name).is_file()]


# In pieces, so that a search of the repository for the same words finds nothing here.
FORBIDDEN = re.compile("|".join(["--(extra-)?index" + "-url", "find" + "-links", r"/root/", r"/home/\w"]))


def test_no_machine_paths_and_no_registries():
    for path in tracked():
        if path.suffix in {".py", ".md", ".toml", ".txt", ".yaml", ".yml", ""}:
            text = path.read_text()
            assert not FORBIDDEN.search(text) or path == Path(__file__), path


def test_torch_and_torchaudio_are_one_pair():
    pins = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().split() if "==" in line)
    assert pins["torch"] == pins["torchaudio"] == "2.11.0"
    assert tuple(map(int, pins["lightning"].split("."))) >= (2, 6, 6)


def test_no_two_test_files_have_one_name():
    """pytest imports them by their names alone: of two that are alike it collects one and stops at the other."""
    names = [path.name for path in (ROOT / "tests").rglob("test_*.py")]
    assert sorted({name for name in names if names.count(name) > 1}) == []
