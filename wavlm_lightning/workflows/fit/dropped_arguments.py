"""Says which arguments of a configuration are dropped because another class was asked for."""

from __future__ import annotations

import logging
import re
import sys

MESSAGE = re.compile(
    r"Due to class_path change from '(?P<old>[^']+)' to '(?P<new>[^']+)', discarding init_args: \{(?P<gone>.*)\}\.",
    re.S,
)
"""How jsonargparse notes it, at level DEBUG; a test holds it to that."""


class SayDropped(logging.Handler):
    """One line on standard error for each class that replaces another and does not know all of its arguments.

    jsonargparse keeps those that the new class has too, and drops the others without a word.
    """

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.said: set[str] = set()

    def emit(self, record: logging.LogRecord) -> None:
        """Read what the parser notes; it parses more than once."""
        found = MESSAGE.fullmatch(record.getMessage())
        if found is None:
            return
        old, new = (found[name].rpartition(".")[2] for name in ("old", "new"))
        line = f"note: {new} replaces {old} and does not take {found['gone']}, which is dropped"
        if line not in self.said:
            self.said.add(line)
            print(line, file=sys.stderr)


def dropping_logger() -> logging.Logger:
    """For the `logger` of a parser: says what is dropped, and nothing else."""
    logger = logging.getLogger("wavlm_lightning.parser")  # parsers are copied, and only a named logger can be
    logger.setLevel(logging.DEBUG)
    logger.propagate = False
    logger.handlers = [SayDropped()]
    return logger
