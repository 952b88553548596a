"""What Lightning says at every start and nobody can act on, filtered."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Filter what Lightning says at every start and nobody can act on."""

    def keep(record: logging.LogRecord) -> bool:
        text = record.getMessage()
        return not any(part in text for part in ("litlogger", "💡", "litmodels", "GPU available", "TPU available"))

    loggers = [
        logging.getLogger(name) for name in ("lightning.pytorch.utilities.rank_zero", "lightning.fabric.utilities")
    ]
    for logger in loggers:
        logger.addFilter(keep)
    with warnings.catch_warnings():
        for message in (
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
        ):
            warnings.filterwarnings("ignore", message=message)
        try:
            yield
        finally:
            for logger in loggers:
                logger.removeFilter(keep)
