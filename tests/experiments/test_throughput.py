"""The benchmark runs, row by row, in its smallest size; what it says is checked, its speed is not."""

from __future__ import annotations

import argparse
import json
import subprocess
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


def settings_of(words: list[str]) -> dict[str, list[dict]]:
    from experiments.throughput.__main__ import _parser, select, variations

    arguments = _parser().parse_args(words)
    return {name: variations(row, arguments) for name, row in select(arguments.rows, gpu=True)}


def test_a_row_has_only_the_settings_that_it_obeys(main):
    rows = ["training-fp32", "pretraining-step", "downstream-step", "learning-rates", "pooled-cache", "search"]
    words = [*rows, "--precision", "bf16", "--dropout", "0.1", "--device", "cuda", "--batch", "3"]
    found = {name: settings for name, (settings,) in settings_of(words).items()}
    obeyed = ("precision", "dropout", "batch", "device")
    assert {name: tuple(each.get(key) for key in obeyed) for name, each in found.items()} == {
        "training-fp32": ("bf16", 0.1, 3, "cuda"),
        "pretraining-step": ("bf16", None, 3, "cuda"),
        "downstream-step": (None, None, 3, "cuda"),
        "learning-rates": (None, None, 3, "cuda"),
        "pooled-cache": (None, None, None, "cpu"),
        "search": (None, None, None, "cpu"),
    }


def test_a_row_without_the_original_is_measured_again_with_it(main, tmp_path: Path):
    from experiments.throughput.results import Result, ResultFile

    file = ResultFile(tmp_path / "results.json", resume=False)
    for name, (settings,) in settings_of(["training-fp32", "search"]).items():
        file.add(Result(name, settings, "s", {"ours": [1.0]}, "ours", []), "cpu")
    again = ResultFile(tmp_path / "results.json", resume=True)
    held = settings_of(["training-fp32", "search", "--original", "unilm"]).items()
    assert [again.holds(name, settings) for name, (settings,) in held] == [False, True]


@pytest.mark.parametrize("clock", ["wall", "processor"])
def test_rows_take_the_clock_that_they_name(main, clock: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from experiments.throughput import downstream_rows
    from experiments.throughput.many_heads import run as many_heads
    from experiments.throughput.other_rows import time_search
    from experiments.throughput.results import Place
    from experiments.throughput.term_search import run as term_search
    from wavlm_lightning.system.timing import CLOCKS

    seen = []

    def compare(**settings):
        seen.append(settings["clock"])
        return {"rates": {"ours": [4.0, 2.0], "peer": [1.0, 1.0]}, "ratio": {}, "difference": 0.0}

    def seconds(model, arguments, time_of):
        seen.append(time_of)
        return float(arguments.updates)

    monkeypatch.setattr(term_search, "compare", compare)
    monkeypatch.setattr(many_heads, "seconds", seconds)
    monkeypatch.setattr(downstream_rows, "mini", lambda work, name: argparse.Namespace(directory=work / name))
    place, shared = Place(tmp_path), {"rounds": 1, "clock": clock}
    sizes = {"dim": 2, "query_frames": 2, "document_frames": 3, "pairs": 1}
    result = time_search("search", {**sizes, **shared}, place, lambda: None)
    assert result.values["ours"] == [0.25, 0.5] and result.rounds.ratio("ours", "peer") == 3.0
    rates = {"size": "tiny", "batch": 2, "updates": 3, "device": "cpu"}
    result = downstream_rows.time_rates("learning-rates", {**rates, **shared}, place, lambda: None)
    assert result.values == {"ours, at once": [3.0], "seven runs": [21.0]}
    assert len(seen) == 1 + 1 + 1 + 7 and set(seen) == {CLOCKS[clock]}


def test_memory_counts_what_the_preparation_keeps(main, monkeypatch: pytest.MonkeyPatch):
    from experiments.throughput import encoder_rows

    monkeypatch.setattr(encoder_rows, "peak_added", lambda step, device: 1.0)
    settings = {"training": False, "device": "cpu", "precision": "fp32", "size": "tiny", "batch": 1, "seconds": 1.0}
    request = {**settings, "dropout": 0.0, "original": None}
    added = {name: encoder_rows.probe({**request, "name": name}) for name in ("ours", "ours, as loaded")}
    assert added["ours"] > added["ours, as loaded"] == 1.0


def test_a_killed_process_of_a_memory_row_is_named(main, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys):
    killed = subprocess.CompletedProcess([], -9, "", "")
    monkeypatch.setattr(subprocess, "run", lambda *words, **options: killed)
    for row in ("training-memory", "fine-tuning-memory"):
        assert main([row, "--rounds", "1", "--out", str(tmp_path / "results.json")]) == 2
        assert f"{row}: ours failed: its process was ended by signal 9" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["no-such-row"], "no row 'no-such-row'"),
        (["search", "learning-rates", "--precision", "bf16"], "--precision: changes nothing in learning-rates, search"),
        (["inference-fp32", "--threads", "0"], "--threads 0"),
        (["inference-fp32", "--batch", "0"], "--batch 0"),
        (["inference-fp32", "--size", "huge"], "--size huge"),
        (["inference-fp32", "--seconds", "0.01"], "--seconds 0.01: shorter than a frame"),
        (["report", "--rounds", "0"], "--rounds 0"),
        (["--table", "missing.json"], "missing.json"),
        (["pretraining-step", "--size", "tiny", "--seconds", "1"], "--size tiny"),
    ],
)
def test_mistakes_are_named_in_one_sentence(main, words, message, tmp_path, capsys):
    assert main([*words, *([] if "--table" in words else ["--work", str(tmp_path)])]) == 2
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert message in said
