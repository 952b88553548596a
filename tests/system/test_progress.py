"""Progress where it is read: a terminal, a terminal without a width, a pipe."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import struct
import sys
import termios

import pytest

from wavlm_lightning.system import progress
from wavlm_lightning.system.progress import Lines, progress_bar, say, timed


class Clock:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr("tqdm.std.time", lambda: self.now)

    def work(self, bar, seconds: int) -> None:
        """One update a second."""
        for _ in range(seconds):
            self.now += 1
            bar.update()


def on_terminal(monkeypatch: pytest.MonkeyPatch, rows: int, columns: int, **environment: str) -> str:
    """What a bar, a nested bar and a line put on a terminal of that size."""
    for name in ("COLUMNS", "LINES"):
        monkeypatch.delenv(name, raising=False)
    for name, value in ({"TERM": "xterm"} | environment).items():
        monkeypatch.setenv(name, value)
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
    with os.fdopen(theirs, "w") as stream:
        monkeypatch.setattr(sys, "stderr", stream)
        with progress_bar(total=3, desc="outer") as bar:
            with progress_bar(total=2, desc="inner", leave=False) as inner:
                inner.update()
            say("a line")
            bar.update(3)
    said = b""
    with contextlib.suppress(OSError):  # the end, once nobody has the other side open; a read may bring a part
        while part := os.read(ours, 100_000):
            said += part
    os.close(ours)
    return said.decode()


def test_a_pipe_gets_a_line_now_and_then_and_no_carriage_return(monkeypatch, capsys):
    clock = Clock(monkeypatch)
    with progress_bar(total=35, desc="job", unit="step") as bar:
        bar.set_postfix({"train/loss": 3.25}, refresh=False)
        clock.work(bar, 35)
    said = capsys.readouterr().err
    lines = said.splitlines()
    assert [line.split()[2] for line in lines] == ["10/35", "20/35", "30/35", "35/35"]
    assert all("train/loss=3.25" in line for line in lines)
    assert "\r" not in said and "\x1b" not in said


def test_a_long_run_writes_few_lines(monkeypatch, capsys):
    clock = Clock(monkeypatch)
    with progress_bar(total=24 * 3600) as bar:
        clock.work(bar, 24 * 3600)
    assert 100 < len(capsys.readouterr().err.splitlines()) < 600


def test_what_was_quick_and_is_not_left_writes_nothing(monkeypatch, capsys):
    clock = Clock(monkeypatch)
    with progress_bar(total=2, desc="inner", leave=False) as bar:
        clock.work(bar, 2)
    assert capsys.readouterr().err == ""
    with progress_bar(total=0, desc="nothing to do"):
        pass
    assert capsys.readouterr().err == ""


def test_a_line_has_no_bar_of_its_own_format(monkeypatch, capsys):
    clock = Clock(monkeypatch)
    with progress_bar(total=4, desc="superb", bar_format="{desc}: {percentage:3.0f}%|{bar}| {elapsed} passed") as bar:
        clock.work(bar, 4)
    assert capsys.readouterr().err == "superb: 100% 00:04 passed\n"


@pytest.mark.parametrize("columns", [0, 60, 200])
def test_a_terminal_shows_a_bar_whatever_width_it_tells(monkeypatch, columns):
    said = on_terminal(monkeypatch, 0 if columns == 0 else 30, columns)
    assert "outer: 100%|" in said and "inner:   0%|" in said and "a line" in said and "3/3" in said
    width = max(len(part) for part in said.replace("\x1b[A", "").replace("\n", "\r").split("\r"))
    assert width <= (columns or progress.WIDTH)


def test_columns_is_the_width_of_a_terminal_that_tells_none(monkeypatch):
    said = on_terminal(monkeypatch, 0, 0, COLUMNS="40")
    assert "outer: 100%|" in said
    assert max(len(part) for part in said.replace("\x1b[A", "").replace("\n", "\r").split("\r")) <= 40


def test_a_dumb_terminal_gets_lines(monkeypatch):
    said = on_terminal(monkeypatch, 30, 80, TERM="dumb")
    assert "\x1b" not in said and said.replace("\r\n", "\n").count("\r") == 0  # the terminal itself makes \r\n of \n
    assert said.splitlines()[0] == "a line" and said.splitlines()[1].startswith("outer: 100% 3/3")


def test_a_job_without_parts_says_how_long_it_took(monkeypatch, capsys):
    times = iter([5.0, 8.2, 10.0, 10.4])
    monkeypatch.setattr(progress, "monotonic", lambda: next(times))
    with timed("k-means"):
        pass
    with timed("too quick to say"):
        pass
    assert capsys.readouterr().err == "k-means: 3 s\n"


def test_lines_are_tqdm_for_those_who_hold_one(capsys):
    bar = progress_bar(total=2)
    assert isinstance(bar, Lines) and bar.total == 2
    bar.close()
    bar.close()  # twice is once
    assert capsys.readouterr().err == ""
