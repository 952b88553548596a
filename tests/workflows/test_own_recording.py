"""The notebook on one's own recording: kept without outputs, and every cell runs on a small encoder and head."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
from same_runs import options

from wavlm_lightning.cli import main

NOTEBOOK = Path(__file__).resolve().parents[2] / "docs" / "notebooks" / "own_recording.ipynb"


@pytest.fixture(scope="module")
def cells() -> list[dict]:
    return json.loads(NOTEBOOK.read_text())["cells"]


def test_it_is_kept_without_outputs(cells):
    assert cells and not any(cell.get("outputs") or cell.get("execution_count") for cell in cells)
    assert "/home/" not in NOTEBOOK.read_text() and "/work/" not in NOTEBOOK.read_text()


def test_every_cell_runs(cells, tiny, tmp_path, monkeypatch, capsys):
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("Agg")
    monkeypatch.chdir(tmp_path)
    head = Path("runs/demo/heads/ks-pretrained")
    words = options(tiny, "ks", "--data.cache", "null", "--trainer.default_root_dir", str(head), updates=1)
    assert main(["fit", *words, "--trainer.limit_val_batches", "1"]) == 0
    sweep = 0.3 * np.sin(np.cumsum(np.linspace(0.01, 0.6, 2 * 44_100)))
    soundfile.write("speech.wav", sweep, 44_100)
    names: dict = {}
    for cell in cells:
        if cell["cell_type"] == "code":
            source = "".join(cell["source"])
            exec(source.replace('"runs/demo/pretrain"', '"tiny"'), names)
    assert names["seconds"] == pytest.approx(2, abs=0.01)
    similarity = names["similarity"]
    assert similarity.shape == (5, 5) and similarity.diagonal().tolist() == pytest.approx([1] * 5)
    assert [start / 16_000 for start in names["starts"]] == [0, 0.5, 1]
    assert [set(answer) for answer in names["answers"]] == [{"keyword", "probability"}] * 3
    printed = capsys.readouterr().out
    assert "'file': 'speech.wav'" in printed and "  0.50 s  {'keyword'" in printed
