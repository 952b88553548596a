"""Progress of every long command: a bar on a terminal, now and then a line in a file or a pipe."""

from __future__ import annotations

import contextlib
import io
import os
import sys
from collections.abc import Iterator
from time import monotonic
from typing import Any, TextIO

from tqdm import tqdm

SECONDS = 10.0
"""Least time between two lines of a bar where standard error is no terminal."""
SHARE = 100
"""After long, a line comes every 1/100 of the time passed: a run of a week writes hundreds of lines, not 60,000."""
WIDTH, HEIGHT = 80, 24  # of a terminal that does not tell


def progress_bar(**arguments: Any) -> tqdm:
    """A bar on standard error with tqdm's arguments; where that is no terminal, lines of the same text.

    A line comes after `SECONDS` at the earliest and another at the end, of a bar with `leave=False` only if there was one
    before. A terminal with TERM=dumb gets lines, too: it cannot go up to the bar of a longer job.

    Example:
        >>> with progress_bar(total=len(files), desc="check", unit=" files") as bar:
        ...     bar.update()
    """
    stream = sys.stderr
    if not is_terminal(stream):
        return Lines(mininterval=SECONDS, maxinterval=SECONDS, **arguments)
    width = _columns(stream)
    size: dict[str, Any] = {"dynamic_ncols": True} if width is None else {"ncols": width, "nrows": HEIGHT}
    return tqdm(mininterval=0.1, **size, **arguments)


def is_terminal(stream: TextIO) -> bool:
    """Whether bars can be drawn on a stream."""
    return stream.isatty() and os.environ.get("TERM") != "dumb"


def _columns(stream: TextIO) -> int | None:
    """None if the terminal tells its width; otherwise that of COLUMNS, or 80."""
    with contextlib.suppress(OSError, ValueError):
        if os.get_terminal_size(stream.fileno()).columns > 0:
            return None
    asked = os.environ.get("COLUMNS", "")
    return int(asked) if asked.isdigit() and int(asked) > 0 else WIDTH


def say(text: str, stream: TextIO | None = None) -> None:
    """Write a line to a stream, standard error by default, above the bars that are there."""
    stream = stream or sys.stderr
    tqdm.write(text, file=stream)
    stream.flush()


@contextlib.contextmanager
def timed(what: str) -> Iterator[None]:
    """Say on a terminal that a job has begun, and everywhere how long it took, if it took a second.

    For a job that cannot count its parts.
    """
    begin = monotonic()
    with progress_bar(desc=what, leave=False, bar_format="{desc} ..."):
        yield
    if (seconds := monotonic() - begin) >= 1:
        say(f"{what}: {seconds:.0f} s")


class Lines(tqdm):
    """Progress as lines, without carriage returns and cursor movements."""

    def __init__(self, iterable: Any = None, **arguments: Any) -> None:
        self.said, self.written = 0.0, ""  # when the last line was written, in seconds since the start; and that line
        if form := arguments.get("bar_format"):
            arguments["bar_format"] = form.replace("|{bar}|", "")
        # No columns leave the bar out of tqdm's own format, and put that in the place of another.
        super().__init__(iterable, ncols=None if form else 0, **arguments)

    def display(self, msg: str | None = None, pos: int | None = None) -> None:
        passed = self.format_dict["elapsed"]
        if passed >= max(SECONDS, self.delay or 0.0) and passed - self.said >= max(SECONDS, passed / SHARE):
            self._line(passed)

    def _line(self, passed: float) -> None:
        if (text := str(self)) == self.written:
            return
        self.said, self.written = passed, text
        with contextlib.suppress(ValueError):  # the stream was closed
            self.fp.write(f"{text}\n")
            self.fp.flush()

    def clear(self, nolock: bool = False) -> None:
        """Nothing has to be removed before another line is written."""

    def close(self) -> None:
        if self.disable:
            return
        passed = self.format_dict["elapsed"]
        if self.said or (self.leave and passed >= (self.delay or 0.0) and self.n > self.initial):
            self._line(passed)
        self.fp = io.StringIO()  # tqdm would end or overwrite a line that is not there
        super().close()
