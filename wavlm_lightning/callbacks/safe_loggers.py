"""A run never dies of its logger: what a logger raises is said once, and training goes on without it."""

from __future__ import annotations

import functools
import sys
import time
from collections.abc import Callable
from typing import Any

from lightning.pytorch.loggers import Logger

# What Lightning and `SaveConfig` call on a logger.
CALLED = (
    *(
        "log_metrics",
        "log_hyperparams",
        "log_graph",
        "log_image",
        "log_text",
        "log_table",
        "log_audio",
        "watch",
        "save",
    ),
    *("after_save_checkpoint", "finalize"),
)
LONG_SECONDS = 10.0  # after which one failure is enough
PATIENCE = 3  # failures in a row after which a logger is not called any more


class Patience:
    """Calls that may fail: each failure is printed once, and after `PATIENCE` in a row nothing is called any more.

    Ctrl-C and errors of the process, such as no memory for Python itself, pass.
    """

    def __init__(self, name: str) -> None:
        self.name, self.failures = name, 0
        self.printed: set[str] = set()

    @property
    def exhausted(self) -> bool:
        return self.failures >= PATIENCE

    def call(self, function: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
        """The value of the call, or None if it failed."""
        if self.exhausted:
            return None
        begin = time.monotonic()
        try:
            value = function(*arguments, **named)
        except Exception as error:
            if time.monotonic() - begin > LONG_SECONDS:  # a server that is waited for: not again at every call
                self.failures = PATIENCE
            self.failed(error)
            return None
        self.failures = 0
        return value

    def failed(self, error: Exception) -> None:
        self.failures += 1
        said = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        if said not in self.printed:
            self.printed.add(said)
            end = "; it is switched off" if self.exhausted else ""
            print(f"note: the logger {self.name} failed ({said}); the run goes on{end}", file=sys.stderr)


def keep_running(logger: Logger) -> Logger:
    """Make the methods of a logger return where they would raise; returns the same object."""
    if hasattr(logger, "patience"):
        return logger
    patience = Patience(type(logger).__name__)
    logger.patience = patience
    for name in CALLED:
        method = getattr(logger, name, None)
        if callable(method):
            setattr(logger, name, functools.wraps(method)(functools.partial(patience.call, method)))
    return logger


def keep_all_running(loggers: Any) -> Any:
    """The value of `trainer.logger` with each logger in it made safe."""
    for logger in loggers if isinstance(loggers, list) else [loggers]:
        if isinstance(logger, Logger):
            keep_running(logger)
    return loggers
