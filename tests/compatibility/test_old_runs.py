"""Run folders, checkpoints and caches made by commit 7963883 are used by today's code; see README.md beside this file."""

from __future__ import annotations

import csv
import json
import shutil
import tarfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from wavlm_lightning.cli import main

HERE = Path(__file__).resolve().parent
EXPECTED = json.loads((HERE / "expected.json").read_text())
LIMIT = 300_000
"""Bytes that everything kept here may take together."""
CPU = ["--trainer.accelerator", "cpu"]


@pytest.fixture
def old(tmp_path, monkeypatch) -> Path:
    """The run folders, as they were, in the working directory."""
    with tarfile.open(HERE / "runs.tar.xz") as archive:
        archive.extractall(tmp_path, filter="fully_trusted")  # `data` would forget the times of files, which count
    monkeypatch.chdir(tmp_path)
    torch.set_num_threads(1)
    return tmp_path


def wavlm(*words: object) -> None:
    assert main([str(word) for word in words]) == 0


def state_of(folder: str) -> dict[str, tuple[int, int]]:
    """Size and time of every file below a folder."""
    files = [path for path in Path(folder).rglob("*") if path.is_file()]
    return {str(path): (path.stat().st_size, path.stat().st_mtime_ns) for path in files}


def table(path: str) -> list[dict[str, str]]:
    return list(csv.DictReader(Path(path).read_text().splitlines()))


def cards(folder: str) -> dict[str, dict]:
    return {str(path): json.loads(path.read_text()) for path in Path(folder).rglob("card.json")}


def check_weights(folder: str) -> None:
    """The last checkpoint holds the weights of the run that the old code made without a stop."""
    expected = EXPECTED[folder]["last"]
    checkpoint = torch.load(Path(folder, "checkpoints", "last.ckpt"), weights_only=True)
    assert checkpoint["global_step"] == 6
    state = {name: value.double() for name, value in checkpoint["state_dict"].items() if name in expected}
    assert set(state) == set(expected)
    for name, value in state.items():
        # The last bits depend on the processor; a step with another batch or mask changes far more.
        sums = [float(value.sum()), float(value.abs().sum())]
        assert sums == pytest.approx(expected[name], rel=1e-5, abs=1e-5), name


def test_everything_kept_is_small():
    assert sum(path.stat().st_size for path in HERE.iterdir() if path.is_file()) < LIMIT


def test_a_pretraining_run_is_resumed_exactly(old):
    wavlm("fit", "-c", "pretrain.yaml", "--ckpt_path", "last")
    check_weights("pretrain")


@pytest.mark.parametrize("task", ["ks", "pr"])
def test_a_head_is_resumed_exactly_on_its_cache(old, task):
    cache = state_of("cache")
    wavlm("fit", "-c", f"{task}.yaml", "--ckpt_path", "last")
    check_weights(task)
    assert cache and state_of("cache") == cache


def test_a_head_is_tested(old):
    before = cards("tested")
    wavlm("test", "-c", "ks.yaml", "--trainer.default_root_dir", "tested", "--ckpt_path", "best")
    after = cards("tested")
    assert set(after) == set(before)
    for path, card in after.items():
        for name, metric in before[path]["metrics"].items():
            assert card["metrics"][name]["value"] == pytest.approx(metric["value"])
        known = {
            key: card["corpus"][key] for key in before[path]["corpus"]
        }  # older cards have no hash of their test data
        assert known == before[path]["corpus"]
        for key in ("task", "headline", "selection", "learning_rate", "steps", "best_step", "layer_weights"):
            assert card[key] == before[path][key], key


@pytest.mark.parametrize("head", ["tested", "exported-head"])
def test_a_head_predicts(old, capsys, head):
    capsys.readouterr()
    wavlm("predict", head, "recordings", "--json", "--device", "cpu")
    said = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    for row, expected in zip(said, EXPECTED[f"predictions of {head}"], strict=True):
        assert set(row) == set(expected)
        for name, value in expected.items():
            assert row[name] == pytest.approx(value, rel=1e-3) if isinstance(value, float) else row[name] == value


@pytest.mark.parametrize(("run", "exported"), [("pretrain", "encoder"), ("tested", "exported-head")])
def test_a_run_is_exported(old, run, exported):
    wavlm("export", run, "again")
    before, after = load_file(f"{exported}/model.safetensors"), load_file("again/model.safetensors")
    assert set(before) == set(after)
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert json.loads(Path("again/config.json").read_text()) == json.loads(Path(exported, "config.json").read_text())


def test_several_heads_of_one_pass_go_on_and_are_tested(old):
    found = sorted(path.parent.parent.as_posix() for path in Path("joint").rglob("best.ckpt"))
    assert len(found) == 3  # two rates of KS, one of SID
    wavlm("fit", "-c", "joint/config.yaml", "--ckpt_path", "last", "--trainer.max_steps", "6")
    wavlm("test", "-c", "joint/config.yaml", "--ckpt_path", "best")
    assert sorted(Path(path).parent.as_posix() for path in cards("joint")) == found


@pytest.mark.usefixtures("unrendered")
def test_a_report_shows_them(old):
    wavlm("report", "tested", "pretrain", "superb", "sweep", "-o", "report")
    rows = table("report/report.csv")
    assert {"KS"} == {row["task"] for row in rows}
    assert "<svg" in Path("report/report.html").read_text()


def test_superb_finds_its_cards(old, capsys):
    before = state_of("superb/old")
    capsys.readouterr()
    words = ["superb", "old=pretrain", "fbank", "--data", "corpora", "--tasks", "ks", "--steps", 2, "--jobs", 1]
    wavlm(*words, "--output", "superb")
    assert state_of("superb/old") == before
    assert "FBANK" in capsys.readouterr().out


@pytest.mark.slow
def test_a_sweep_goes_on(old):
    pytest.importorskip("optuna")
    (first,) = cards("sweep")
    before = state_of(str(Path(first).parent))
    wavlm("sweep", "sweep.yaml", "--output", "sweep", "--test", "--trials", 2, "--jobs", 1, "--", *CPU)
    after = state_of(str(Path(first).parent))
    # Only its card may say more: among how many rates it was chosen.
    assert {path for path in after if after[path] != before.get(path)} <= {str(Path(first))}
    assert len(cards("sweep")) == len(table("sweep/trials.csv")) == 2


def test_a_recipe_knows_what_is_done(old, capsys):
    before = state_of("recipe")
    capsys.readouterr()
    wavlm("recipe", "road.yaml", "--corpus", "corpora/words", "--out", "recipe")
    said = capsys.readouterr().out
    assert said.count("done before") >= 3, said
    changed = {path for path, state in state_of("recipe").items() if before.get(path) != state}
    assert not [path for path in changed if path.endswith((".ckpt", ".safetensors", ".npy"))]


@pytest.mark.slow
def test_a_demo_knows_what_is_done(old, tiny, capsys):
    # Audio, codebook and weights of the demo are too large to keep; its report reads the first two.
    shutil.copytree(tiny / "pretrain", "demo/corpus/pretrain")
    shutil.copytree(tiny / "codebook", "demo/codebook", dirs_exist_ok=True)
    Path("demo/pretrain/checkpoints").mkdir()
    torch.save({"state_dict": {}, "global_step": 4}, "demo/pretrain/checkpoints/last.ckpt")
    before = state_of("demo/heads")
    capsys.readouterr()
    wavlm("demo", "--out", "demo", "--size", "tiny", "--steps", 4, "--head-steps", 2)
    assert capsys.readouterr().out.count("done before") == 4
    assert state_of("demo/heads") == before
    assert Path("demo/report.html").is_file()


def test_a_codebook_gives_the_same_labels(old):
    wavlm("codebook", "apply", "codebook", "corpora/words", "--name", "again")
    before = [*Path("corpora/words/labels/mfcc100").glob("*.safetensors")]
    assert len(before) == 3
    assert all(
        load_file(path)["labels"].equal(load_file(str(path).replace("mfcc100", "again"))["labels"]) for path in before
    )
    wavlm("data", "check", "corpora/words")
