"""`experiments/real_audio` and `real_speech`: whose recordings a corpus is of, how long an interrupted training took."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
from documented_commands import ROOT

from wavlm_lightning.system.errors import UserError

EXPERIMENTS = ROOT / "experiments"


def test_a_corpus_of_other_recordings_is_refused(tmp_path: Path):
    found = runpy.run_path(str(EXPERIMENTS / "real_audio" / "run.py"))
    soundfile.write(tmp_path / "a.flac", 0.1 * np.ones(1600), 16_000)
    rows = [{"path": "a.flac", "speaker": "ann", "text": "hello"} for _ in range(10)]
    for number, row in enumerate(rows):
        row["path"] = f"{number}.flac"
        (tmp_path / row["path"]).write_bytes((tmp_path / "a.flac").read_bytes())
    (tmp_path / "manifest.csv").write_text("path,speaker\n")
    place = tmp_path / "out" / "sid"
    assert not found["is_made"](place, tmp_path)
    found["make_sid"](tmp_path, rows, place)
    assert found["is_made"](place, tmp_path)
    (tmp_path / "manifest.csv").write_text("path,speaker,text\n")
    with pytest.raises(UserError, match="made of other recordings"):
        found["is_made"](place, tmp_path)


def test_a_folder_without_heads_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "manifest.csv").write_text("path,speaker,language,text,seconds\n")
    options = ["--speech", str(tmp_path), "--superb", str(tmp_path), "--out", str(tmp_path / "out")]
    monkeypatch.setattr(sys, "argv", ["run.py", *options])
    with pytest.raises(SystemExit, match=r"no folder in it has asr/card\.json"):
        runpy.run_path(str(EXPERIMENTS / "real_audio" / "run.py"), run_name="__main__")


def test_the_time_of_an_interrupted_training_is_not_taken_for_the_whole(tmp_path: Path):
    found = runpy.run_path(str(EXPERIMENTS / "real_speech" / "run.py"))
    said = []
    found["pretrain"].__globals__["wavlm"] = lambda *words: said.append(words)
    found["pretrain"](tmp_path)
    assert found["pretraining_time"](tmp_path) == "0 s"
    (tmp_path / "pretrain_seconds.json").unlink()
    last = tmp_path / "pretrain" / "checkpoints" / "last.ckpt"
    last.parent.mkdir(parents=True)
    last.touch()
    found["pretrain"](tmp_path)
    assert said[-1][-2:] == ("--ckpt_path", "last")
    assert found["pretraining_time"](tmp_path) == "0 s since it was interrupted"
    (tmp_path / "pretrain_seconds.json").write_text("416")
    assert found["pretraining_time"](tmp_path) == "416 s"
