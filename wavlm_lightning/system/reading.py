"""Read text, JSON and tables from files that anybody may have written: whatever is wrong becomes one sentence."""

from __future__ import annotations

import contextlib
import csv
import gzip
import hashlib
import io
import json
import os
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import yaml

from wavlm_lightning.system.errors import UserError, one_line

LONGEST = 120  # characters of a reason that are shown


@contextlib.contextmanager
def reading(path: Path | str, what: str, remedy: str = "") -> Iterator[None]:
    """Turn any error in the block, which reads the file `path`, into a `UserError` that names it.

    Parsers raise what they like (KeyError, RecursionError, AttributeError, ...), so a list of exceptions is never complete.

    Args:
        path: the file, for the message.
        what: it should be, such as "the manifest".
        remedy: what to do, such as "download it again".

    Example:
        >>> with reading(path, "the alignment of a chapter", "download it again"):
        ...     rows = [line.split()[3] for line in read_lines(path)]
    """
    end = f"; {remedy}" if remedy else ""
    try:
        yield
    except UserError:
        raise
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file; it should be {what}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not text in UTF-8 ({_place(error)}); save it as UTF-8") from error
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error}){end}") from error
    except MemoryError as error:
        raise UserError(f"{path}: too large to be {what}{end}") from error
    except Exception as error:
        raise UserError(f"{path}: not readable as {what} ({reason_of(error)}){end}") from error


def sha256(path: Path, what: str = "a file to hash") -> str:
    """The hash of a file, or of all files of a folder (a sharded checkpoint); `what` it should be, for the message."""
    digest = hashlib.sha256()
    for part in sorted(path.rglob("*")) if path.is_dir() else [path]:
        if not part.is_dir():
            with reading(part, what), part.open("rb") as file:
                while block := file.read(1 << 20):
                    digest.update(block)
    return digest.hexdigest()


def reason_of(error: BaseException) -> str:
    """An exception in a few words, on one line."""
    said = one_line(str(error), LONGEST)
    if isinstance(error, yaml.MarkedYAMLError) and error.problem is not None and error.problem_mark is not None:
        said = one_line(f"line {error.problem_mark.line + 1}: {error.problem}", LONGEST)
    if isinstance(error, KeyError):
        said = f"{said} is missing"
    elif isinstance(error, RecursionError):
        said = "nested too deeply"
    elif not said or isinstance(error, AttributeError | TypeError | IndexError):
        said = f"another structure: {said or type(error).__name__}"
    return said


def shown(value: Any, longest: int = 60) -> str:
    """A value from a file for a message: on one line, cut if it is long."""
    try:
        return one_line(repr(value), longest)
    except (ValueError, RecursionError):  # a number of thousands of digits, or nested too deeply
        return f"a {type(value).__name__} that is too long to be shown"


def _place(error: UnicodeDecodeError) -> str:
    line = error.object[: error.start].count(b"\n") + 1
    return f"line {line}, byte 0x{error.object[error.start]:02x}"


def check_file(path: Path, what: str = "a file", remedy: str = "") -> None:
    """Refuse a pipe, a device or a folder where a file belongs: reading one may wait, or go on, for ever.

    A path that does not exist passes: opening it says so.

    Raises:
        UserError: naming the path and what it is.
    """
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError):  # missing, a name too long, a zero byte in it
        return
    if not stat.S_ISREG(mode):
        kinds = {stat.S_IFDIR: "a folder", stat.S_IFIFO: "a pipe", stat.S_IFCHR: "a device", stat.S_IFBLK: "a device"}
        end = f"; {remedy}" if remedy else ""
        raise UserError(f"{path}: not a file but {kinds.get(stat.S_IFMT(mode), 'a socket')}; it should be {what}{end}")


def check_arguments(words: Sequence[str]) -> None:
    """Refuse words of a command line, or values behind `=`, that name a pipe, a device or a socket.

    No option takes one: files are read twice (by several processes, or to compare a hash), and writing is by renaming.

    Raises:
        UserError: naming the path and what it is.
    """
    for word in words:
        for path in {word, word.partition("=")[2]}:
            with contextlib.suppress(OSError, ValueError):
                mode = os.stat(path).st_mode  # noqa: PTH116 - not every word is a path
                if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
                    check_file(Path(path), "a file or a folder", "write its content to a file and give that")


def read_text(path: Path, what: str = "text", remedy: str = "") -> str:
    """The text of a file in UTF-8, with or without a byte order mark, gzipped if its name ends with `.gz`.

    Raises:
        UserError: the file is missing, a pipe or a device, or not in UTF-8; the message names line and byte.
    """
    check_file(path, what)
    with reading(path, what, remedy):
        content = path.read_bytes()
        if path.suffix == ".gz":
            content = gzip.decompress(content)
        return content.decode("utf-8-sig")


def read_json(path: Path, what: str, remedy: str = "", kind: type = dict) -> Any:
    """The content of a JSON file, a dict unless `kind` says otherwise; a `UserError` names what is wrong."""
    text = read_text(path, what, remedy)
    with reading(path, what, remedy):
        content = json.loads(text)
        if not isinstance(content, kind):
            raise TypeError(f"it holds {type(content).__name__}, not {kind.__name__}")
        return content


def read_lines(path: Path, what: str = "text", remedy: str = "") -> list[str]:
    """The lines of a text file, see `read_text`: a line ends where an editor ends it, and not at U+2028 or a form feed.

    `str.splitlines` would cut a transcript that holds one of these in two, and shift all lines behind it.
    """
    lines = read_text(path, what, remedy).replace("\r\n", "\n").replace("\r", "\n").split("\n")
    return lines[:-1] if lines[-1] == "" else lines


def read_table(
    path: Path, what: str, needed: Sequence[str], delimiter: str = ",", quoted: bool = True, remedy: str = ""
) -> Iterator[tuple[int, dict[str, str]]]:
    """The rows of a table with a header: line number, and value by column. Rows of another shape are refused.

    Args:
        path: the file.
        what: it should be, for messages.
        needed: columns that it must have.
        delimiter: between two fields.
        quoted: fields may stand in double quotes, as spreadsheets write them. A field that runs over several lines is
            refused: nearly always a quote was not closed, and the lines after it would become its text.
        remedy: what to do about a wrong row.

    Raises:
        UserError: not in UTF-8, a column is missing or named twice, a row has too few or too many fields, a quote is not
            closed; the message names the line.
    """
    end = f"; {remedy}" if remedy else ""
    fields = _fields(path, read_text(path, what, remedy), delimiter, quoted, end)
    _, header = next(fields, (1, []))
    columns = [name.strip() for name in header]
    if missing := [name for name in needed if name not in columns]:
        raise UserError(f"{path}: no column `{missing[0]}`; its columns are {_some(columns)}")
    if twice := {name for name in columns if columns.count(name) > 1}:
        raise UserError(f"{path}: two columns are named `{min(twice)}`; rename one")
    for number, row in fields:
        if len(row) != len(columns):
            hint = (
                "put a text that holds one in double quotes"
                if quoted and len(row) > len(columns)
                else "complete the row"
            )
            mark = {",": "comma", "\t": "tab"}.get(delimiter, delimiter)
            raise UserError(
                f"{path}, line {number}: {len(row)} fields under {len(columns)} columns, separated by a {mark}; {hint}"
            )
        yield number, dict(zip(columns, row, strict=True))


def _some(columns: Sequence[str]) -> str:
    """Names of columns, as many as fit in a sentence; in another kind of file they may be anything."""
    shown = "".join(character if character.isprintable() else "?" for character in ", ".join(columns)) or "none"
    return shown if len(shown) <= LONGEST else f"{shown[:LONGEST]}..."


def _fields(path: Path, text: str, delimiter: str, quoted: bool, end: str) -> Iterator[tuple[int, list[str]]]:
    """Line number and fields of each line that is not empty; every line is parsed alone."""
    quoting: Literal[0, 3] = csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE
    # Not `splitlines`, which also splits at characters that occur in texts, such as U+2028.
    for number, line in enumerate(io.StringIO(text, newline=None), start=1):
        if not line.strip():
            continue
        try:
            yield number, next(csv.reader([line.rstrip("\n")], delimiter=delimiter, quoting=quoting, strict=True))
        except csv.Error as error:
            what = "a double quote is not closed" if "unexpected end" in str(error) else str(error)
            raise UserError(f"{path}, line {number}: {what}{end}") from error
