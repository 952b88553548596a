"""What a user sees of Lightning and torch: repeated notices are filtered, known errors become one sentence."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator

import torch
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from wavlm_lightning.system.errors import UserError
from wavlm_lightning.system.name_hints import known_classes
from wavlm_lightning.workflows.fit.parser_errors import user_error

# Parts of the errors that gloo, NCCL and the process group's store raise after another process has died.
LOST_PEER = (
    "Connection closed by peer",
    "Connection reset by peer",
    "Broken pipe",
    "Timed out waiting",
    "NCCL",
    "timed out",
)
NOTICES = ("litlogger", "💡", "litmodels", "GPU available", "TPU available")
WARNINGS = (
    ".*was deprecated in v4.*",
    ".*Couldn't infer the batch indices.*",
    ".*callbacks used to create the checkpoint need to be provided.*",
    ".*args parameter is intended to run from within Python.*",
    ".*does not have many workers.*",
    ".*module.* in eval mode at the start of training.*",
    ".*Found .* module.*in eval mode.*",
    ".*Checkpoint directory .* exists and is not empty.*",
    ".*smaller than the logging interval.*",
    ".*dataloader is not resumable.*",
    ".*ended before the epoch ended.*",
    ".*`isinstance\\(treespec, LeafSpec\\)` is deprecated.*",
)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Filter the notices and warnings that Lightning repeats at every start and that need no action."""

    def keep(record: logging.LogRecord) -> bool:
        text = record.getMessage()
        return not any(part in text for part in NOTICES)

    names = "lightning.pytorch.utilities.rank_zero", "lightning.fabric.utilities"
    loggers = [logging.getLogger(name) for name in names]
    for logger in loggers:
        logger.addFilter(keep)
    with warnings.catch_warnings():
        for message in WARNINGS:
            warnings.filterwarnings("ignore", message=message)
        try:
            yield
        finally:
            for logger in loggers:
                logger.removeFilter(keep)


@contextlib.contextmanager
def readable_errors() -> Iterator[None]:
    """Turn errors that the user can fix into a `UserError`; all others keep their traceback."""
    from jsonargparse import ArgumentError

    try:
        yield
    except UserError as error:
        # A process that reads audio sends the whole traceback as the message.
        if not str(error).startswith("Caught UserError in DataLoader worker"):
            raise
        raise UserError(str(error).strip().rpartition("UserError: ")[2]) from error
    except (ArgumentError, ValueError) as error:
        if (said := user_error(error, known_classes())) is None:
            raise
        raise (said if isinstance(said, UserError) else UserError(str(said))) from error
    except MisconfigurationException as error:
        raise UserError(str(error).splitlines()[0]) from error
    except torch.OutOfMemoryError as error:
        hint = "lower data.batch_seconds or data.batch_size"
        raise UserError(f"out of memory on the device; {hint} ({error})") from error
    except RuntimeError as error:
        if (reason := lost_process(error)) is None:
            raise
        raise UserError(reason) from error


def lost_process(error: BaseException | None) -> str | None:
    """A sentence for the user if an error, or one of its causes, means that another process of the run has died."""
    while error is not None:
        text = str(error)
        if text.startswith("DataLoader worker"):
            return (
                "a process that reads audio has died (was memory short? see the messages above); resume with "
                f"--ckpt_path last, and with a lower data.num_workers if it happens again ({text.splitlines()[0]})"
            )
        if any(sign in text for sign in LOST_PEER):
            return (
                "another process of this run has died or hangs, see its own messages; "
                f"start all of them again with --ckpt_path last ({text.splitlines()[0]})"
            )
        error = error.__cause__ or error.__context__
    return None
