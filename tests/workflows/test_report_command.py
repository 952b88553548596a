"""`wavlm report` from the command line."""

from __future__ import annotations

import json

from wavlm_lightning.cli import main
from wavlm_lightning.cli.report import reservation
from wavlm_lightning.reports.cards import ResultCard


def ks_card(corpus, label="FBANK", value=61.0, task="KS"):
    return ResultCard(
        task=task,
        metrics={"accuracy": {"value": value, "unit": "%", "better": "higher"}},
        headline="accuracy",
        corpus={"name": "mini/ks", "path": str(corpus), "split": "test", "utterances": 48, "seconds": 48.0},
        upstream={"label": label, "class": "F", "sha256": "", "parameters": 0, "frame_rate": 100.0, "layers": 1},
        learning_rate=1e-3,
        seed=0,
        steps=10,
        best_step=5,
        protocol="superb",
        command="wavlm test -c configs/superb/ks.yaml",
        created="2026-01-01T00:00:00+00:00",
    )


def test_a_folder_of_runs_becomes_three_files(tiny, tmp_path, capsys):
    ks_card(tiny / "ks").write(tmp_path / "runs" / "a")
    ks_card(tiny / "ks", "MFCC", 58.0).write(tmp_path / "runs" / "b")
    (tmp_path / "runs" / "c").mkdir()
    (tmp_path / "runs" / "c" / "card.json").write_text(json.dumps({"format": "other/1"}))
    out = tmp_path / "report"
    assert main(["report", str(tmp_path / "runs"), "-o", str(out)]) == 0
    said = capsys.readouterr()
    assert f"written: {out / 'report.html'}" in said.out
    assert said.err.count("\n") == 1 and "has format 'other/1'" in said.err
    assert {"report.html", "report.md", "report.csv"} <= {path.name for path in out.iterdir()}
    markdown = (out / "report.md").read_text()
    assert "KS was not run on SUPERB's own corpus" in markdown and "MFCC against FBANK" in markdown


def test_mistakes_are_one_sentence(tmp_path, capsys):
    assert main(["report", str(tmp_path / "nowhere"), "-o", str(tmp_path / "report")]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_what_cannot_be_checked_is_not_comparable(tmp_path):
    assert "no longer there" in reservation(ks_card(tmp_path / "gone"))
    assert "none of SUPERB's" in reservation(ks_card(tmp_path, task="Language"))
