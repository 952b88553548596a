"""What a user is told to install."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

from wavlm_lightning.system.errors import pip_install

ROOT = Path(__file__).resolve().parents[2]


def test_what_an_extra_needs_is_said_as_packages():
    """`pip install 'wavlm_lightning[hf]'` finds nothing: the package comes from a checkout or a wheel, not from PyPI."""
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for extra in sorted(set(declared) - {"dev"}):
        for requirement in declared[extra]:
            assert f"'{requirement}'" in pip_install(extra)
    assert pip_install("no such extra") == "install the extra [no such extra] of wavlm_lightning"


def test_no_message_names_an_extra_that_pip_cannot_find():
    files = [*(ROOT / "wavlm_lightning").rglob("*.py"), *(ROOT / "docs").glob("*.md"), ROOT / "README.md"]
    pattern = re.compile(r"install[^\n]*['\"` ]wavlm_lightning\[")
    found = [path.name for path in files if path.name != "errors.py" and pattern.search(path.read_text())]
    assert found == []
