"""`wavlm new`: files that are small, lint-free and named as asked; nothing is written over or hidden."""

from __future__ import annotations

import ast
import sys

import pytest
import yaml

from wavlm_lightning.cli import main
from wavlm_lightning.workflows.new import KINDS, renamed


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    return tmp_path


@pytest.mark.parametrize("kind", KINDS)
def test_a_kind_is_written_under_the_users_name(kind, here, capsys):
    assert main(["new", kind, f"age_of_{kind}"]) == 0
    said = capsys.readouterr().out
    text = (here / f"age_of_{kind}.py").read_text()
    assert len(text.splitlines()) < 60
    classes = [node.name for node in ast.parse(text).body if isinstance(node, ast.ClassDef)]
    assert classes == [f"AgeOf{kind.capitalize()}"]
    assert "wavlm " in said and f"age_of_{kind}" in said
    for file in here.iterdir():
        assert f"my_{kind}" not in file.read_text().lower()
    config = here / f"age_of_{kind}.yaml"
    assert config.is_file() == (kind != "corpus")
    if config.is_file():
        assert f"age_of_{kind}.AgeOf{kind.capitalize()}" in str(yaml.safe_load(config.read_text()))


def test_nothing_is_written_over(here, capsys):
    (here / "mine.yaml").write_text("a: 1")
    assert main(["new", "task", "mine"]) == 2
    assert "mine.yaml is already here" in capsys.readouterr().err
    assert [path.name for path in here.iterdir()] == ["mine.yaml"] and (here / "mine.yaml").read_text() == "a: 1"


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("json", "already importable"),
        ("MyHead", "take my_head"),
        ("my-head.py", "take my_head"),
        ("2nd", "begin with a letter"),
        ("class", "begin with a letter"),
        ("../x", "take x"),
    ],
)
def test_a_name_that_cannot_be_imported_is_refused(name, said, here, capsys):
    assert main(["new", "task", name]) == 2
    assert said in (error := capsys.readouterr().err) and error.count("\n") == 1
    assert not list(here.iterdir())


def test_only_whole_names_are_replaced():
    assert renamed("MyTask my_task MY_TASK my_tasks TaskData runs/my_task", "task", "age") == (
        "Age age AGE my_tasks TaskData runs/age"
    )
