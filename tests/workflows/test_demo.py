"""The whole road on the tiny corpus."""

from __future__ import annotations

import json
import re

import pytest
import yaml

from wavlm_lightning.cli import main
from wavlm_lightning.workflows.demo import stages


@pytest.mark.slow
@pytest.mark.usefixtures("quick_commands")
@pytest.mark.timeout(600)
def test_demo_from_nothing_then_from_what_is_there(tmp_path, monkeypatch, capfd):
    """An interruption in the middle, then to the end, then again in seconds."""
    out = tmp_path / "demo"
    arguments = ["demo", "--size", "tiny", "--steps", "8", "--head-steps", "8", "--out", str(out)]
    with monkeypatch.context() as patch:
        patch.setattr(stages, "run_heads", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
        assert main(arguments) == 130
    assert json.loads((out / "stages.json").read_text())["done"] == ["corpus", "codebook", "pre-training"]
    assert main(arguments) == 0
    said = capfd.readouterr().out
    assert said.count("done before") == 3
    cards = sorted(p.parent.name for p in out.glob("heads/*/card.json"))
    assert len(cards) == 9
    page = (out / "report.html").read_text()
    assert "http" not in re.sub(r"http-equiv|http://www\.w3\.org", "", page)
    for fact in (
        "PNMI 0.",
        "8 speakers",
        "2,087,736 parameters",
        yaml.safe_load((out / "pretrain" / "config.yaml").read_text())["trainer"]["precision"],
    ):
        assert fact in page
    for name in ("report.md", "curves.png", "results.png", "layers.png"):
        assert (out / name).stat().st_size > 500
    stamps = {p: p.stat().st_mtime_ns for p in out.rglob("*.ckpt")}
    assert main(arguments) == 0
    assert {p: p.stat().st_mtime_ns for p in out.rglob("*.ckpt")} == stamps
    assert main([*arguments[:-2], "--seed", "1", "--out", str(out)]) == 2
    assert "other settings" in capfd.readouterr().err
