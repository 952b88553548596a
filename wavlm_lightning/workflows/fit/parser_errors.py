"""jsonargparse's messages, read by regular expressions because it offers them only as text.

`one_sentence` reduces a nested error to its innermost part and adds the nearest existing name; `user_error` prefers the
sentence of a constructor. `dropping_logger` reports
arguments that jsonargparse drops when a class is replaced.
"""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from jsonargparse import ArgumentError

from wavlm_lightning.system import name_hints
from wavlm_lightning.system.errors import UserError
from wavlm_lightning.system.run_folder import is_run

NOISE = re.compile(
    r"^$|NoneType|Subtypes:|Errors:|Does not validate against|Given value type|Expected a path but .* not accessible"
    r"|Not a valid subclass|Subclass types expect|^- ?a |^a (class path|dict)"
)
UNION = "Does not validate against any of the Union subtypes"
DOT_IMPORT = re.compile(r"Expected a dot import path string: (\S+)")
# jsonargparse's record, at level DEBUG, of arguments that it drops.
DROPPED = re.compile(
    r"Due to class_path change from '(?P<old>[^']+)' to '(?P<new>[^']+)', discarding init_args: \{(?P<dropped>.*)\}\.",
    re.S,
)
TYPE = re.compile(r"Expected an? (?:<class '(?P<type>[^']+)'>|typing\.Literal\[(?P<choices>.*?)\])")


@dataclass
class Complaint:
    """The innermost error of a message, and its place."""

    place: str = ""  # keys and classes that lead to it
    owner: str | None = None  # dotted path of the innermost class
    lines: list[str] = field(default_factory=list)  # the parser's text, one line for each type that it tried
    given: str | None = None  # the value, if the parser shows it


def one_sentence(text: str, known_classes: Sequence[type]) -> str:
    """The innermost error of a message, after the keys that lead to it; the known classes are for hints.

    Example:
        >>> one_sentence('Parser key "model":\\n  Parser key "lr":\\n    Expected a number', [])
        'model, lr: Expected a number'
    """
    complaint = innermost(text)
    said = _reworded(complaint, known_classes)
    return f"{complaint.place}: {said}" if complaint.place else said


def user_error(error: BaseException, known_classes: Sequence[type]) -> UserError | None:
    """What the user did wrong, of an error of the parser or one from building what it parsed; None if it is another error.

    The constructor's own `UserError` where there is one: jsonargparse wraps it in one ValueError for each type that it tried,
    and of a union chains only that of the first type.
    """
    said: BaseException | None = error
    while said is not None:
        if isinstance(said, UserError):
            return said
        said = said.__cause__ or said.__context__
    if isinstance(error, ArgumentError) or str(error).startswith(UNION):
        return UserError(one_sentence(str(error), known_classes))
    return None


def innermost(text: str) -> Complaint:
    """Parse a message of the parser down to its innermost error."""
    found = Complaint()
    for line in (line.strip().removeprefix("- ") for line in text.splitlines()):
        if key := re.fullmatch(r'Parser key "([^"]+)":(?: (.+))?', line):
            if found.lines:
                break
            found.place += f"{', ' if found.place else ''}{key[1]}"
            found.lines += [key[2]] if key[2] else []
        elif path := re.fullmatch(r"Problem with given class_path '([^']+)':", line):
            if found.lines and not all(TYPE.match(said) or DOT_IMPORT.match(said) for said in found.lines):
                break
            found.owner, found.lines = path[1], []
            found.place += f" ({path[1].rsplit('.', 1)[-1]})"
        elif value := re.fullmatch(r"Given value: (.+)", line):
            found.given = value[1]
            break  # the following lines belong to an outer level
        elif not NOISE.search(line) and line not in found.lines:
            found.lines.append(line)
    found.lines = found.lines or [text.strip().splitlines()[0]]
    return found


def _reworded(complaint: Complaint, known_classes: Sequence[type]) -> str:
    for line in complaint.lines:
        if name := DOT_IMPORT.match(line):
            return f"no class {name[1]}{name_hints.of_class(name[1], known_classes) or '; give its dotted path'}"
    # Of a union of types, the one that fits more than in its kind has more to say than what was expected instead.
    first = next((line for line in complaint.lines if not TYPE.match(line)), complaint.lines[0])
    if missing := re.search(r"following arguments are required: (.+)", first):
        names = re.sub(r"\b(fit|validate|test|predict)\.", "", missing[1])
        return f"{names} missing; " + ("add it in the YAML" if complaint.place else "name a YAML with -c FILE")
    if option := re.search(r"(?:Option|option) '([\w.]+)' is not accepted|does not accept option '([\w.]+)'", first):
        path: str = option[1] or option[2]
        return f"Option '{path}' is not accepted{name_hints.of_option(path, complaint.owner)}"
    if arguments := re.search(r"unrecognized arguments: (--([\w.]+)?.*|.*)", first):
        hint = name_hints.of_option(arguments[2], complaint.owner) if arguments[2] else ""
        if is_run(Path(arguments[1])):
            hint = "; a run folder comes first, as in `wavlm test RUN --trainer.accelerator cpu`"
        return f"unrecognized arguments: {arguments[1]}{hint}"
    if file := re.search(r"File does not exist: '?([^']+)", first):
        return f"{file[1]}: no such file{name_hints.of_config(file[1])}"
    if lost := re.search(r"No module named '([\w.]+)'", first):
        hint = name_hints.of_module(lost[1])
        return f"no module {lost[1]} beside the YAML, in the working directory or installed{hint}"
    if attribute := re.search(r"module '([\w.]+)' has no attribute '(\w+)'", first):
        return f"no {attribute[2]} in {attribute[1]}{name_hints.of_attribute(*attribute.groups())}"
    if base := re.search(r"does not correspond to a subclass of (\w+)", first):
        named = re.search(r"'class_path': '([^']+)'", complaint.given or "")
        return f"{named[1] if named else complaint.given} is not a subclass of {base[1]}"
    if first.startswith("Problems parsing config"):
        place = re.findall(r"line (\d+), column", "\n".join(complaint.lines))
        return f"the YAML of -c is not readable{f' at line {place[-1]}' if place else ''}; correct it there"
    return _types(complaint) or first


def _types(complaint: Complaint) -> str | None:
    """`expected int or one of 'a', 'b', not 'c'`; None if a line is about something else than types."""
    found = [TYPE.match(line) for line in complaint.lines]
    if not all(found):
        return None
    wanted = dict.fromkeys(f"one of {one['choices']}" if one["choices"] else one["type"] for one in found if one)
    got = re.search(r"Got value: (.+)", complaint.lines[0])
    value = got[1] if got else complaint.given
    choices = [choice for one in found if one and one["choices"] for choice in re.findall(r"'([^']+)'", one["choices"])]
    return f"expected {' or '.join(wanted)}, not {value}{name_hints.nearest(str(value), choices)}"


class DroppedArguments(logging.Handler):
    """Print one line on standard error for each class that replaces another and does not take all of its arguments.

    jsonargparse passes on the arguments that both classes have and drops the others silently.
    """

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.printed: set[str] = set()

    def emit(self, record: logging.LogRecord) -> None:
        found = DROPPED.fullmatch(record.getMessage())
        if found is None:
            return
        old, new = (found[name].rpartition(".")[2] for name in ("old", "new"))
        line = f"note: {new} replaces {old} and does not take {found['dropped']}, which is dropped"
        if line not in self.printed:  # the parser parses the same options more than once
            self.printed.add(line)
            print(line, file=sys.stderr)


def dropping_logger() -> logging.Logger:
    """A logger for a parser that prints `DroppedArguments` and nothing else."""
    logger = logging.getLogger("wavlm_lightning.parser")  # parsers are deep-copied, which only named loggers survive
    logger.setLevel(logging.DEBUG)
    logger.propagate = False
    logger.handlers = [DroppedArguments()]
    return logger
