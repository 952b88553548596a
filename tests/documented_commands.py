"""Runs the commands and the Python blocks of a page of documentation, as printed but short."""

from __future__ import annotations

import csv
import os
import re
import shlex
import subprocess
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import soundfile

from wavlm_lightning.cli import main
from wavlm_lightning.data.corpus import Corpus

ROOT = Path(__file__).resolve().parents[1]
# Options that make a command short; everything else is as printed. The last of two equal options counts.
TRAINING = ["--trainer.max_steps", "4", "--trainer.val_check_interval", "1", "--trainer.accelerator", "cpu"]
TRAINING += ["--checkpoint_every", "1"]  # so that there are checkpoints to average
SHORT: dict[str, list[str]] = {
    "fit": TRAINING,
    "test": ["--trainer.accelerator", "cpu"],
    "superb": ["--steps", "2", "--jobs", "1"],
    "prepare mini": ["--size", "tiny"],
    "bench": ["--rounds", "1"],
}
FEWER = {"--clusters": "8"}
PLAIN = ("mkdir", "tar")
"""Other programs that a page may use."""
ELSEWHERE = {"demo": "tests/workflows/test_demo.py"}
"""Verbs that take too long for a page, and the file that tests them."""
BLOCK = re.compile(r"(?:^<!-- (needs:|run by) ([^\n]+) -->\n)?^```(\w*)\n(.*?)^```", flags=re.M | re.S)
HERE_DOCUMENT = re.compile(r"cat > (\S+) <<'END'\n(.*?)^END\n", flags=re.M | re.S)


@dataclass(frozen=True)
class Block:
    """A fenced block.

    Attributes:
        language: the word after the fence; empty for a shell.
        content: the lines between the fences.
        needs: what is missing here to run it, such as a GPU.
        run_by: the test file that runs it instead.
    """

    language: str
    content: str
    needs: str | None = None
    run_by: str | None = None


def blocks(page: Path) -> list[Block]:
    """All blocks of a page, in order."""
    return [
        Block(language, content, why if how == "needs:" else None, why if how == "run by" else None)
        for how, why, language, content in BLOCK.findall(page.read_text(encoding="utf-8"))
    ]


def run_page(page: Path, folder: Path) -> list[str]:
    """Run the blocks of a page that can run here.

    Args:
        page: a Markdown file.
        folder: the working directory.

    Returns:
        The verbs that were run, and `python` for a block of Python.
    """
    ran: list[str] = []
    for block in blocks(page):
        if block.needs is not None:
            continue
        if block.run_by is not None:
            assert (ROOT / block.run_by).is_file(), f"{page.name}: {block.run_by} is not there"
        elif block.language == "python":
            exec(compile(block.content, str(page), "exec"), {})
            ran.append("python")
        elif block.language in ("", "sh"):
            for name, content in HERE_DOCUMENT.findall(block.content):
                (folder / name).write_text(content)
            for line in HERE_DOCUMENT.sub("", block.content).replace("\\\n", " ").splitlines():
                ran += run_line(line, page)
    return ran


def run_line(line: str, page: Path) -> list[str]:
    """Run a command, and return its verb."""
    words = shlex.split(line, comments=True)
    settings: dict[str, str] = {}
    while words and re.match(r"[A-Z_]+=", words[0]):
        name, _, value = words.pop(0).partition("=")
        settings[name] = value
    if not words:
        return []
    if words[0] == "make":
        assert f"\n{words[1]}:" in (ROOT / "Makefile").read_text(), f"{page.name}: the Makefile has no {words[1]}"
        return []
    if words[0] in PLAIN:
        subprocess.run(words, check=True)
        return []
    assert words[0] == "wavlm", f"{page.name}: no test runs `{line}`; say above the block what it <!-- needs: ... -->"
    if words[1] in ELSEWHERE:
        assert (ROOT / ELSEWHERE[words[1]]).is_file()
        return []
    with mock.patch.dict(os.environ, settings):
        assert main(shortened(words[1:])) == 0, f"{page.name}: {line}"
    return [words[1]]


def shortened(words: list[str]) -> list[str]:
    """A command that does the same in less time."""
    words = [FEWER.get(before, word) for before, word in zip(["", *words], words, strict=False)]
    if words[0] == "sweep" and "--output" in words:
        cut = words.index("--") if "--" in words else len(words)
        return [*words[:cut], "--trials", "2", "--jobs", "1", "--", *words[cut + 1 :], *TRAINING]
    return [*words, *SHORT.get(words[0], []), *SHORT.get(" ".join(words[:2]), [])]


def make_recordings(corpus: Path, folder: Path) -> None:
    """The pages' RECORDINGS: wav files and a manifest.

    Args:
        corpus: where the utterances come from.
        folder: where to write; it must not exist.
    """
    folder.mkdir()
    rows: list[dict[str, str]] = []
    for name in ("train", "valid"):
        for key, waveform, meta in Corpus.open(corpus).split(name).utterances():
            soundfile.write(folder / f"{key}.wav", waveform, 16_000)
            language = ("en", "xx")[len(rows) % 2]
            row = {"path": f"{key}.wav", "speaker": meta["speaker"], "text": meta["text"], "language": language}
            rows.append({**row, "split": ("train", "valid", "test")[len(rows) % 3]})
    with (folder / "manifest.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
