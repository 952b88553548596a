"""`experiments/faults/fuzz.py` does not call an unknown door clean."""

from __future__ import annotations

import runpy
import sys

import pytest
from documented_commands import ROOT


@pytest.mark.parametrize("words", [["--door", "no such door"], ["--only", "3"], ["--only", "3", "--door", "audio"]])
def test_a_door_that_does_not_exist_is_refused(words: list[str], monkeypatch: pytest.MonkeyPatch, capsys):
    monkeypatch.setattr(sys, "argv", ["fuzz.py", *words])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(ROOT / "experiments" / "faults" / "fuzz.py"), run_name="__main__")
    assert ended.value.code == 2 and "no door: --door takes" in capsys.readouterr().err
