"""A finished row of `experiments/finetuning/asr` is kept only where the call asks for the same."""

from __future__ import annotations

import csv
import json
import runpy
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from documented_commands import ROOT

from wavlm_lightning.system.errors import UserError

SCRIPT = ROOT / "experiments" / "finetuning" / "asr" / "run.py"
Script = Callable[..., list[list[str]]]


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Script:
    """Runs the script on one row of one corpus without `wavlm`; the commands that it gave."""
    monkeypatch.chdir(tmp_path)
    commands: list[list[str]] = []

    def wavlm(words: list[str], check: bool) -> None:
        commands.append(words)
        if words[1] == "lm" and "--out" in words:
            Path(words[words.index("--out") + 1]).write_text("a model")
        elif words[1] == "prepare":
            folder = Path(words[words.index("--out") + 1])
            folder.mkdir()
            (folder / "corpus.json").write_text("{}")
        elif words[1] == "test":
            metrics = {name: {"value": 50.0} for name in ("wer", "wer_lm", "cer")}
            (Path(words[2]) / "card.json").write_text(json.dumps({"metrics": metrics, "training_seconds": 1.0}))

    def run(corpus: str, *words: str) -> list[list[str]]:
        monkeypatch.setattr(subprocess, "run", wavlm)
        found = runpy.run_path(str(SCRIPT))
        found["main"].__globals__["HERE"] = tmp_path
        commands.clear()
        found["main"](["--corpus", corpus, "--rows", "FBANK", "--minutes", "1", "--seeds", "0", *words])
        return [*commands]

    return run


def test_a_finished_row_is_kept_for_the_same_options_alone(script: Script):
    assert [words[1] for words in script("mini")] == ["lm", "fit", "lm", "test"]
    assert script("mini") == []
    for words in (["--learning-rate", "1e-3"], ["--batch-seconds", "10"], ["--trials", "3"]):
        with pytest.raises(UserError, match="holds a run with other options"):
            script("mini", *words)
    assert [words[1] for words in script("mini", "--steps", "400")] == ["fit", "lm", "test"]


def test_a_corpus_of_other_recordings_is_refused(script: Script, tmp_path: Path):
    def speech(name: str, *texts: str) -> str:
        folder = tmp_path / name
        folder.mkdir()
        with (folder / "manifest.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, ["path", "speaker", "language", "text", "seconds"])
            writer.writeheader()
            for number, text in enumerate(texts):
                path = f"{number}.flac"
                writer.writerow({"path": path, "speaker": "a", "language": "en-US", "text": text, "seconds": 2})
        return str(folder)

    with pytest.raises(UserError, match="--corpus english needs --speech"):
        script("english")
    one, other, none = speech("one", "hello"), speech("other", "good bye"), speech("none", "route 66")
    with pytest.raises(UserError, match="no usable recording of en-US"):
        script("english", "--speech", none)
    assert [words[1] for words in script("english", "--speech", one)] == ["prepare", "lm", "fit", "lm", "test"]
    assert script("english", "--speech", one) == script("english") == []
    with pytest.raises(UserError, match="made of other recordings"):
        script("english", "--speech", other)
