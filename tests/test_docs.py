"""Every command and every Python block of `docs` and the README runs, in the order of the pages, on a small corpus."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from documented_commands import ROOT, blocks, make_recordings, run_page
from test_floors import FLOORS

from wavlm_lightning.cli import main

DOCS = ROOT / "docs"
# The order of reading, except that the page whose results the others use comes first.
ORDER = [
    *("own_data", "install", "first_steps", "superb", "from_s3prl", "add_a_head", "sweeps", "stages"),
    *(
        "fine_tuning",
        "tokenisers",
        "who_speaks_when",
        "quality_of_speech",
        "clean_and_convert",
        "translate_speech",
        "reports",
        "units",
        "clusters",
        "healthy_run",
        "speed",
        "faq",
        "glossary",
        "api",
        "index",
    ),
]
README = ROOT / "README.md"
PAGES = [*(DOCS / f"{name}.md" for name in ORDER), README]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_pages_run(tiny, tmp_path, monkeypatch, capsys, quick_processes):
    make_recordings(tiny / "pretrain", tmp_path / "RECORDINGS")
    shutil.copy(next((tmp_path / "RECORDINGS").glob("*.wav")), tmp_path / "speech.wav")
    monkeypatch.chdir(tmp_path)
    ran = []
    for page in PAGES:
        if page == README:
            stand_in_for_the_demo(tmp_path)
        ran += run_page(page, tmp_path)
    verbs = {
        "prepare",
        "data",
        "codebook",
        "recipe",
        "plan",
        "bench",
        "fit",
        "test",
        "predict",
        "export",
        "average",
        "sweep",
        "report",
        "score",
    }
    assert verbs | {"superb", "new", "doctor", "python"} <= set(ran)
    for path in (
        "runs/mine-ks/card.json",
        "runs/mine-lid/checkpoints/last.ckpt",
        "runs/rates/trial-001/card.json",
        "runs/report/report.html",
        "exports/ks/config.json",
    ):
        assert (tmp_path / path).is_file(), path


def stand_in_for_the_demo(folder: Path) -> None:
    """Give the pages' encoder and head the names of those of `wavlm demo`, which is too long for this test."""
    (folder / "runs" / "demo" / "heads").mkdir(parents=True)
    (folder / "runs" / "demo" / "pretrain").symlink_to(folder / "runs" / "mine")
    (folder / "runs" / "demo" / "heads" / "ks-pretrained").symlink_to(folder / "runs" / "mine-ks")


def test_no_page_is_forgotten():
    """Every page is in the order of this test and in the navigation of the site."""
    assert {page.stem for page in DOCS.glob("*.md")} == set(ORDER)
    # Its own tags (`!!python/name:`) do not occur in ours.
    listed = yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"]
    assert {name for entry in listed for name in entry.values()} == {f"{name}.md" for name in ORDER}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_page_names_nothing_that_is_not_there(page):
    text = page.read_text()
    for link in re.findall(r"\]\((?!http)([^)#]+)\)", text):
        assert (page.parent / link).exists(), link
    for picture in re.findall(r"<img[^>]+src=\"([^\"]+)\"", text):
        assert (page.parent / picture).exists(), picture
    for path in re.findall(r"`(configs/[\w/.-]+|experiments/[\w/.-]+)`", text):
        assert (ROOT / path).exists(), path
    assert "@@" not in text


def test_contributing_shows_the_floors():
    """The table of CONTRIBUTING.md is `FLOORS` of test_floors.py."""
    rows = re.findall(r"^\| ?(\d*) \| `(\w+)` \|", (ROOT / "CONTRIBUTING.md").read_text(), flags=re.M)
    shown: list[set[str]] = []
    for floor, package in rows:
        if floor:
            assert int(floor) == len(shown) + 1
            shown.append(set())
        shown[-1].add(package)
    assert shown == FLOORS


def test_experiments_import_no_command_line():
    """They use libraries and `workflows`; `cli` only parses and prints."""
    files = [path for path in (ROOT / "experiments").rglob("*") if path.suffix in {".py", ".ipynb"}]
    assert files
    assert [str(path) for path in files if re.search(r"wavlm_lightning\.cli|import cli\b", path.read_text())] == []


@pytest.mark.parametrize(("suite", "count"), [("superb", 11), ("fullstack", 19)])
def test_the_official_commands_are_understood(suite, count, tmp_path, monkeypatch, capsys):
    """Without the corpora they must stop because of the missing corpora, not because of an option."""
    monkeypatch.chdir(tmp_path)
    text = (ROOT / "configs" / suite / "README.md").read_text()
    commands = re.findall(r"`(wavlm prepare [^`]+)`", text) + re.findall(r"^(wavlm superb .*)$", text, flags=re.M)
    assert len(commands) == count
    for command in commands:
        capsys.readouterr()
        (tmp_path / "runs" / "mine" / "checkpoints").mkdir(parents=True, exist_ok=True)
        (tmp_path / "runs" / "mine" / "checkpoints" / "last.ckpt").touch()
        assert main(shlex.split(command)[1:]) == 2, command
        assert re.search(r"no such folder|no corpora there", capsys.readouterr().err), command


def test_a_command_that_no_test_runs_is_found(tmp_path):
    (tmp_path / "page.md").write_text("<!-- needs: a GPU -->\n```sh\nnvcc x.cu\n```\n\n```sh\nnvcc y.cu\n```\n")
    assert [block.needs for block in blocks(tmp_path / "page.md")] == ["a GPU", None]
    with pytest.raises(AssertionError, match=r"nvcc y\.cu"):
        run_page(tmp_path / "page.md", tmp_path)


@pytest.mark.slow
def test_the_site_is_built_without_a_warning(tmp_path):
    pytest.importorskip("mkdocs")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", tmp_path / "site"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    api = (tmp_path / "site" / "api" / "index.html").read_text()
    assert "prepare_for_inference" in api
    for page in (tmp_path / "site").rglob("*.html"):
        loaded = re.findall(r"<(?:script|link|img)[^>]+(?:src|href)=\"?(https?://[^\s\">]+)", page.read_text())
        assert not [url for url in loaded if "wavlm" not in url], page
