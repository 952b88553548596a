"""What a run may meet, in one sentence."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from wavlm_lightning.system.errors import UserError
from wavlm_lightning.system.name_hints import known_classes
from wavlm_lightning.workflows.fit.lost_process import lost_process
from wavlm_lightning.workflows.fit.parser_errors import one_sentence


@contextlib.contextmanager
def readable_errors() -> Iterator[None]:
    """Turn what the user can mend into a `UserError`; all else keeps its traceback."""
    from jsonargparse import ArgumentError

    try:
        yield
    except ArgumentError as error:
        raise UserError(one_sentence(str(error), known_classes())) from error
    except ValueError as error:
        # What a constructor says of its arguments comes wrapped in all that jsonargparse has tried.
        said: BaseException | None = error
        while said is not None and not isinstance(said, UserError):
            said = said.__cause__ or said.__context__
        if said is None:
            raise
        raise said from error
    except MisconfigurationException as error:
        raise UserError(str(error).splitlines()[0]) from error
    except torch.OutOfMemoryError as error:
        raise UserError(
            f"out of memory on the device; lower data.batch_seconds or data.batch_size ({error})"
        ) from error
    except RuntimeError as error:
        if (reason := lost_process(error)) is None:
            raise
        raise UserError(reason) from error
