"""Every command and every Python block of the README runs, in the order of the page, on a small corpus."""

from __future__ import annotations

import csv
import re
import shlex
from pathlib import Path

import pytest
import soundfile

from wavlm_lightning.cli import main
from wavlm_lightning.data.corpus import Corpus

README = Path(__file__).resolve().parents[1] / "README.md"
# What makes a command short; everything else is as printed.
SHORT = {
    "fit": ["--trainer.max_steps", "4", "--trainer.val_check_interval", "1", "--trainer.accelerator", "cpu"],
    "test": ["--trainer.accelerator", "cpu"],
    "superb": ["--steps", "2"],
}
FEWER = {"--clusters": "8"}


def blocks() -> list[tuple[str, str]]:
    """(language, content) of every fenced block."""
    return re.findall(r"^```(\w*)\n(.*?)^```", README.read_text(), flags=re.M | re.S)


@pytest.fixture
def recordings(tiny, tmp_path):
    """The README's RECORDINGS: wav files and a manifest."""
    folder = tmp_path / "RECORDINGS"
    folder.mkdir()
    rows = []
    for name in ("train", "valid"):
        for key, waveform, meta in Corpus.open(tiny / "pretrain").split(name).utterances():
            soundfile.write(folder / f"{key}.wav", waveform, 16_000)
            language = ("en", "xx")[len(rows) % 2]
            row = {"path": f"{key}.wav", "speaker": meta["speaker"], "text": meta["text"], "language": language}
            rows.append({**row, "split": ("train", "valid", "test")[len(rows) % 3]})
    with (folder / "manifest.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return folder


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_readme_runs(recordings, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    ran = []
    for language, content in blocks():
        if language == "python" and content.startswith("from wavlm_lightning.tasks"):
            (tmp_path / "my_heads.py").write_text(content)
        elif language == "python":
            exec(compile(content, str(README), "exec"), {})
            ran.append("python")
        else:
            for line in content.splitlines():
                words = shlex.split(line, comments=True)
                if words[:1] == ["wavlm"] and words[1] != "demo":
                    words = [FEWER.get(before, word) for before, word in zip(["", *words], words, strict=False)]
                    assert main([*words[1:], *SHORT.get(words[1], [])]) == 0, line
                    ran.append(words[1])
    assert {"prepare", "data", "codebook", "fit", "test", "predict", "superb", "export", "doctor", "python"} <= set(ran)
    assert (tmp_path / "runs" / "mine-ks" / "card.json").is_file()
    assert (tmp_path / "runs" / "mine-lid" / "checkpoints" / "last.ckpt").is_file()


def test_the_official_commands_are_understood(tmp_path, monkeypatch, capsys):
    """Without the corpora they must stop for want of the corpora, not of an option."""
    monkeypatch.chdir(tmp_path)
    text = (README.parent / "configs" / "superb" / "README.md").read_text()
    commands = re.findall(r"`(wavlm prepare [^`]+)`", text) + re.findall(r"^(wavlm superb .*)$", text, flags=re.M)
    assert len(commands) == 11
    for command in commands:
        capsys.readouterr()
        (tmp_path / "runs" / "mine" / "checkpoints").mkdir(parents=True, exist_ok=True)
        (tmp_path / "runs" / "mine" / "checkpoints" / "last.ckpt").touch()
        assert main(shlex.split(command)[1:]) == 2, command
        assert re.search(r"no such folder|no corpora there", capsys.readouterr().err), command


def test_readme_names_nothing_that_is_not_there():
    text = README.read_text()
    for link in re.findall(r"\]\((?!http)([^)#]+)\)", text):
        assert (README.parent / link).exists(), link
    assert "@@" not in text
