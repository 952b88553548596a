"""Nothing imports upwards, nothing imports in a circle, and the repository keeps what it promises about itself."""

from __future__ import annotations

import ast
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "wavlm_lightning"
ALLOWED = {
    "encoder": set(),
    "metrics": set(),
    "audio": set(),
    "data": {"audio", "encoder", "errors", "places", "progress"},
    "upstreams": {"audio", "encoder", "errors", "progress"},
    "codebooks": {"audio", "encoder", "metrics", "data", "upstreams", "errors", "progress"},
    "pretraining": {"audio", "encoder", "metrics", "data", "upstreams", "codebooks", "errors", "progress"},
    "tasks": {"audio", "encoder", "metrics", "data", "upstreams", "errors", "places", "progress"},
    "reports": {"metrics", "errors"},
}


def imports(path: Path) -> set[str]:
    """Our packages that a file imports, at its top or inside a function."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module]
            if node.module == "wavlm_lightning":
                names = [f"wavlm_lightning.{alias.name}" for alias in node.names]
        found |= {name.split(".")[1] for name in names if name.startswith("wavlm_lightning.")}
    return found


@pytest.mark.parametrize("floor", ALLOWED)
def test_nothing_imports_upwards(floor):
    for path in (PACKAGE / floor).rglob("*.py"):
        wrong = imports(path) - ALLOWED[floor] - {floor}
        assert not wrong, f"{path.relative_to(ROOT)} imports {', '.join(sorted(wrong))}"


def test_every_package_has_its_floor():
    packages = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert packages == set(ALLOWED) | {"cli"}


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
