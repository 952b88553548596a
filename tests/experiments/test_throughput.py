"""The benchmark runs, row by row, in its smallest size; what it says is checked, its speed is not."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def main(monkeypatch: pytest.MonkeyPatch):
    pytest.importorskip("transformers")
    monkeypatch.syspath_prepend(str(ROOT))
    for name in [name for name in sys.modules if name == "experiments" or name.startswith("experiments.")]:
        monkeypatch.delitem(sys.modules, name)
    from experiments.throughput.__main__ import main

    return main


def run(main, tmp_path: Path, *words: str) -> list[dict]:
    out = tmp_path / "results.json"
    assert main([*words, "--rounds", "1", "--out", str(out), "--work", str(tmp_path)]) == 0
    return json.loads(out.read_text())


def test_encoder_rows_and_their_table(main, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    words = ["inference-fp32", "training-bf16", "--size", "tiny", "--batch", "1", "--seconds", "0.5"]
    results = run(main, tmp_path, *words)
    assert [result["row"] for result in results] == ["inference-fp32", "training-bf16"]
    for result in results:
        assert set(result["values"]) == {"ours", "ours, as loaded", "transformers", "torchaudio"}
        assert all(len(seconds) == 1 and seconds[0] > 0 for seconds in result["values"].values())
        assert max(result["parity"].values()) < 1e-5
    printed = capsys.readouterr().out
    assert main(["--table", str(tmp_path / "results.json")]) == 0
    assert capsys.readouterr().out == printed
    assert "inference fp32, all hidden states | tiny, fp32, cpu, 1 x 0.5 s, 1 rounds" in printed


def test_it_goes_on_where_it_stopped(main, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from experiments.throughput import catalogue, other_rows

    first = run(main, tmp_path, "report")
    calls = []

    def stop(row, *arguments):
        calls.append(row)
        raise KeyboardInterrupt

    monkeypatch.setitem(catalogue.ROWS, "kmeans-labels", catalogue.Row("stopped", stop, {}))
    out = str(tmp_path / "results.json")
    assert main(["report", "kmeans-labels", "--rounds", "1", "--out", out, "--resume"]) == 130
    assert calls == ["kmeans-labels"]
    assert json.loads(Path(out).read_text()) == first
    assert other_rows.time_table is catalogue.ROWS["report"].measure


def test_labels_are_those_of_scikit_learn(main, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from experiments.throughput import catalogue

    monkeypatch.setitem(catalogue.ROWS["kmeans-labels"].settings, "frames", 600)
    monkeypatch.setitem(catalogue.ROWS["kmeans-labels"].settings, "clusters", 20)
    (result,) = run(main, tmp_path, "kmeans-labels")
    assert result["notes"]["agreement"] > 0.99


@pytest.mark.slow
@pytest.mark.long
def test_memory_and_downstream_rows(main, tmp_path: Path):
    words = ["training-memory", "downstream-step", "learning-rates", "--size", "tiny", "--batch", "2", "--seconds", "1"]
    results = {result["row"]: result for result in run(main, tmp_path, *words)}
    assert set(results) == {"training-memory", "downstream-step", "learning-rates"}
    assert results["training-memory"]["unit"] == "GiB"
    assert all(value > 0 for result in results.values() for values in result["values"].values() for value in values)


@pytest.mark.slow
@pytest.mark.long
def test_fine_tuning_rows(main, tmp_path: Path):
    words = ["fine-tuning-step", "fine-tuning-memory", "--size", "tiny", "--batch", "2", "--seconds", "2"]
    step, memory = run(main, tmp_path, *words)
    losses = list(step["notes"]["losses of the same batch"].values())
    assert len(losses) == 4 and losses == pytest.approx(losses[:1] * 4, rel=1e-4)
    for result, unit in ((step, "s"), (memory, "GiB")):
        assert result["unit"] == unit and result["peers"] == ["transformers", "torchaudio"]
        assert all(value > 0 for values in result["values"].values() for value in values)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["no-such-row"], "no row 'no-such-row'"),
        (["report", "--rounds", "0"], "--rounds 0"),
        (["--table", "missing.json"], "missing.json"),
        (["pretraining-step", "--size", "tiny", "--seconds", "1"], "--size tiny"),
    ],
)
def test_mistakes_are_named_in_one_sentence(main, words, message, tmp_path, capsys):
    assert main([*words, *([] if "--table" in words else ["--work", str(tmp_path)])]) == 2
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert message in said
