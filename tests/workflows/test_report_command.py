"""`wavlm report` from the command line."""

from __future__ import annotations

import json

import pytest
import torch

from wavlm_lightning.cli import main
from wavlm_lightning.reports.cards import ResultCard
from wavlm_lightning.reports.curves import Curves
from wavlm_lightning.reports.runs.curves import PretrainingFacts, PretrainingRun
from wavlm_lightning.workflows.report import describe_pretraining, reservation


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


@pytest.mark.usefixtures("unrendered")
def test_what_cannot_be_checked_is_not_comparable(tmp_path):
    assert "no longer there" in reservation(ks_card(tmp_path / "gone"))
    assert "not one of SUPERB's" in reservation(ks_card(tmp_path, task="Language"))


@pytest.mark.usefixtures("unrendered")
def test_a_pretraining_run_is_described_by_its_corpus(tiny, tmp_path):
    def run(**data):
        return PretrainingRun("run", tmp_path, {"data": {"init_args": data}}, Curves(), 1, False)

    facts = describe_pretraining(run(corpus=str(tiny / "pretrain")))
    assert facts.corpus.startswith("mini/pretrain, ") and facts.speakers == 8 and 0 < facts.minutes < 5
    assert (facts.clusters, facts.parameters) == (None, None)
    nothing = PretrainingFacts()
    for corpus in (str(tmp_path / "gone"), "s3://bucket/corpus", [{"corpus": "a"}], None):
        assert describe_pretraining(run(corpus=corpus)) == nothing
    assert describe_pretraining(run(corpus=str(tiny / "pretrain"), labels="gone")) == nothing
    (tmp_path / "checkpoints").mkdir()
    weights = {"encoder.a": torch.zeros(2, 3), "objectives.0.b": torch.zeros(4), "mixing": torch.zeros(9)}
    torch.save({"state_dict": weights}, tmp_path / "checkpoints" / "last.ckpt")
    assert describe_pretraining(run()).parameters == 10
    (tmp_path / "checkpoints" / "last.ckpt").write_bytes(b"cut short")
    assert describe_pretraining(run()) == nothing
