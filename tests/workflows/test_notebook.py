"""Runs opened from Python: two of them share no state; the notebook runs as a whole and is stored without outputs."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from same_runs import options

from wavlm_lightning.tasks.joint.many_heads import ManyHeads
from wavlm_lightning.workflows.fit import open_run

NOTEBOOK = Path(__file__).resolve().parents[2] / "experiments" / "notebooks" / "first_steps.ipynb"


@pytest.fixture
def notebook():
    nbformat = pytest.importorskip("nbformat")
    return nbformat.read(NOTEBOOK, as_version=4)


def test_it_is_kept_without_outputs(notebook):
    assert not any(cell.get("outputs") or cell.get("execution_count") for cell in notebook.cells)


def test_every_cell_runs_in_this_process(notebook, tmp_path, monkeypatch):
    """With fewer updates and without a kernel."""
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    for cell in notebook.cells:
        if cell.cell_type == "code":
            exec(cell.source.replace('"60"', '"12"'), names)
    assert names["scores"][0] and (tmp_path / "runs" / "first_steps" / "checkpoints" / "best.ckpt").is_file()


@pytest.mark.slow
def test_every_cell_runs(notebook, tmp_path):
    nbclient = pytest.importorskip("nbclient")
    nbclient.NotebookClient(notebook, timeout=200, resources={"metadata": {"path": str(tmp_path)}}).execute()
    said = "".join(output.get("text", "") for cell in notebook.cells for output in cell.get("outputs", []))
    assert "KeywordSpotting on random weights (tiny) with 5 layers" in said and "50 frames a second" in said
    assert any("image/png" in output.get("data", {}) for output in notebook.cells[-2]["outputs"])
    run = tmp_path / "runs" / "first_steps"
    assert (run / "checkpoints" / "best.ckpt").is_file() and (run / "config.yaml").is_file()


def test_two_open_runs_share_no_state(tiny, tmp_path):
    rates = ["--model.learning_rate", "[1e-2, 1e-3]"]
    several = open_run(*options(tiny, "ks", "--trainer.default_root_dir", str(tmp_path / "several")), *rates)
    one = open_run(*options(tiny, "ks", "--trainer.default_root_dir", str(tmp_path / "one")))
    assert isinstance(several.model, ManyHeads) and not isinstance(one.model, ManyHeads)
    for run in (several, one):  # the later run must not decide what the earlier one writes
        run.trainer.fit(run.model, run.datamodule)
    written = {name: yaml.safe_load((tmp_path / name / "config.yaml").read_text()) for name in ("several", "one")}
    assert written["several"]["model"]["init_args"]["learning_rate"] == [0.01, 0.001]
    assert isinstance(written["one"]["model"]["init_args"]["learning_rate"], float)
    folders = [{path.parent.name for path in (tmp_path / name).glob("*/config.yaml")} for name in ("several", "one")]
    assert folders == [{"learning-rate-0.01", "learning-rate-0.001"}, set()]
