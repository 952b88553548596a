"""Errors in one sentence: messages on one line, what nobody foresaw with a log, places that take no files."""

from __future__ import annotations

import errno
import os
import pickle
import sys
import traceback
from pathlib import Path
from types import SimpleNamespace

import pytest
from torch.utils.data import DataLoader, Dataset

from wavlm_lightning.audio import BadAudio
from wavlm_lightning.cli import main
from wavlm_lightning.encoder import CheckpointError
from wavlm_lightning.system.errors import LONGEST, UserError, one_line
from wavlm_lightning.system.files import FULL, REFUSED, atomic_write, check_output
from wavlm_lightning.system.last_words import KEPT
from wavlm_lightning.system.reading import read_json, shown
from wavlm_lightning.system.yaml_files import read_yaml


@pytest.fixture
def failing(monkeypatch, tmp_path):
    """A verb `doctor` that raises what it is given; logs go to a folder of the test."""
    monkeypatch.setenv("WAVLM_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("WAVLM_TRACEBACK", raising=False)
    verb = SimpleNamespace(error=None)

    def run(argv):
        raise verb.error

    monkeypatch.setitem(sys.modules, "wavlm_lightning.cli.doctor", SimpleNamespace(main=run))
    return verb


@pytest.mark.parametrize(
    ("error", "status", "words"),
    [
        (UserError("x: wrong; correct it"), 2, "x: wrong; correct it"),
        (BadAudio("a.wav: truncated"), 2, "a.wav: truncated"),
        (CheckpointError("a.pt is\nbroken"), 2, "a.pt is broken"),
        (KeyError("speaker"), 1, "unexpected KeyError ('speaker'); the traceback is in "),
        (RuntimeError("a\n" * 500), 1, "unexpected RuntimeError (a a"),
        (MemoryError(), 1, "out of memory; "),
        (RecursionError("maximum recursion depth"), 1, "nested too deeply"),
        (OSError(errno.ENOSPC, "No space left on device", "/x/y"), 1, "/x/y: No space left on device; free some space"),
        (ModuleNotFoundError("No module named 'sox'"), 1, "`wavlm doctor`"),
        (KeyboardInterrupt(), 130, "interrupted"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else None,
)
def test_what_ends_a_command_is_one_sentence(failing, capsys, tmp_path, error, status, words):
    failing.error = error
    assert main(["doctor"]) == status
    said = capsys.readouterr().err
    assert said.startswith("wavlm doctor: ") and words in said and said.count("\n") == 1
    logs = list((tmp_path / "cache/errors").glob("*.log"))
    assert len(logs) == (status == 1)
    if logs:
        assert str(logs[0]) in said
        text = logs[0].read_text()
        assert "Traceback (most recent call last)" in text and "in run" in text and "command: wavlm doctor" in text


def test_the_traceback_can_be_shown(failing, capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("WAVLM_TRACEBACK", "1")
    for failing.error in (ValueError("odd"), UserError("odd")):
        main(["doctor"])
        said = capsys.readouterr().err
        assert "Traceback (most recent call last)" in said and said.splitlines()[-1].startswith("wavlm doctor: ")
    assert not (tmp_path / "cache").exists()


def test_logs_go_where_files_can_be_written_and_do_not_pile_up(failing, capsys, tmp_path, monkeypatch):
    failing.error = ValueError("odd")
    folder = tmp_path / "cache/errors"
    folder.mkdir(parents=True)
    for number in range(KEPT + 5):
        (folder / f"{number}.log").touch()
        os.utime(folder / f"{number}.log", (number, number))
    assert main(["doctor"]) == 1
    assert len(list(folder.iterdir())) == KEPT and not (folder / "0.log").exists()

    (tmp_path / "file").touch()
    monkeypatch.setenv("WAVLM_CACHE", str(tmp_path / "file"))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    capsys.readouterr()
    assert main(["doctor"]) == 1
    assert len(list(tmp_path.glob("doctor-*.log"))) == 1

    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "file"))
    capsys.readouterr()
    assert main(["doctor"]) == 1
    said = capsys.readouterr().err
    assert "Traceback (most recent call last)" in said and "no log of it could be written" in said.splitlines()[-1]


def test_a_message_is_one_line_and_keeps_both_ends():
    error = UserError("m.csv: " + "x" * 100_000 + "\n\tline\x1b[2J; correct it")
    assert len(str(error)) == LONGEST and str(error).startswith("m.csv: xxx") and str(error).endswith("; correct it")
    assert "\n" not in str(error) and "\x1b" not in str(error)
    assert one_line("é\u200bü") == "é\\u200bü"
    assert str(pickle.loads(pickle.dumps(BadAudio("a\nb")))) == "a b"
    assert len(shown(["x" * 1000])) == 60 and "too long" in shown(10**6000)


class Failing(Dataset):
    def __init__(self, error: type[Exception]) -> None:
        self.error = error

    def __len__(self) -> int:
        return 1

    def __getitem__(self, number: int) -> int:
        try:
            raise ValueError("lower: down")
        except ValueError as error:
            raise self.error("train-0.tar: utterance 'u': cannot be decoded") from error


@pytest.mark.parametrize("error", [UserError, BadAudio])
def test_the_sentence_of_a_process_that_reads_audio_arrives_without_its_traceback(error):
    with pytest.raises(UserError) as caught:
        list(DataLoader(Failing(error), num_workers=1))
    # Else the reader is collected in a circle with its queues, and waits five seconds for a process that nothing tells to end.
    traceback.clear_frames(caught.tb)
    assert str(caught.value) == "train-0.tar: utterance 'u': cannot be decoded"


@pytest.mark.parametrize("number", [*FULL, *REFUSED])
def test_what_cannot_be_written_is_a_sentence(tmp_path, monkeypatch, number):
    with (
        pytest.raises(UserError, match=rf"a: cannot be written \({os.strerror(number)}\)"),
        atomic_write(tmp_path / "a"),
    ):
        raise OSError(number, os.strerror(number))
    with (
        pytest.raises(UserError, match="a: cannot be written"),
        atomic_write(tmp_path / "a"),
    ):  # as safetensors does
        raise RuntimeError(f"Error while serializing: I/O error: {os.strerror(number)} (os error {number})")
    assert not list(tmp_path.iterdir())

    def refuse(*_, **__):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(UserError, match=r"--out .*: cannot be written") as caught:
        check_output(tmp_path / "new/folder")
    assert ("free some space" in str(caught.value)) == (number in FULL)


def test_other_errors_pass_a_write(tmp_path):
    with pytest.raises(ZeroDivisionError), atomic_write(tmp_path / "a"):
        raise ZeroDivisionError


def test_a_folder_to_write_to_is_tried_without_being_made(tmp_path):
    check_output(tmp_path / "a/b/c")
    check_output(tmp_path)
    assert not list(tmp_path.iterdir())
    (tmp_path / "link").symlink_to("nowhere")
    for path in (
        tmp_path / "link",
        tmp_path / "link/a",
        Path(f"{tmp_path}/a\0b"),
        Path("/dev/null"),
        Path("/dev/null/a"),
    ):
        with pytest.raises(UserError, match="cannot be written"):
            check_output(path)


@pytest.mark.parametrize(
    "text", ["a: [1", "a: !!timestamp x", "a: !!python/module:os", "[" * 5000, "a: " + "1" * 5000, "3"]
)
def test_yaml_that_is_no_mapping(tmp_path, text):
    path = tmp_path / "c.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=r"c\.yaml: not readable as (YAML|a recipe) .*; correct it"):
        read_yaml(path, "a recipe", "correct it", dict)


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "p.json")
    with pytest.raises(UserError, match="not a file"):
        read_json(tmp_path / "p.json", "a card")
