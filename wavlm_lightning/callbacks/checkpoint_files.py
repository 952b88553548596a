"""Checkpoints of one file: written beside the one before, which they replace when all is written."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.plugins.io import CheckpointIO, TorchCheckpointIO

from wavlm_lightning.system.errors import UserError
from wavlm_lightning.training.fsdp import no_room, not_written


class WholeFiles(TorchCheckpointIO):
    """A run that is killed while it writes, or whose disk is full, keeps the checkpoint before.

    Lightning's own writes to the system's temporary folder first. Where that is another disk the file is copied over the
    checkpoint before, and a kill in the middle of that loses both; and that folder may be too small.

    Example:
        >>> Trainer(plugins=[WholeFiles()])
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None) -> None:
        """Write `path`.

        Raises:
            UserError: the disk does not take it.
        """
        path = Path(path)
        fresh = path.with_name(f"{path.name}.new")
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with fresh.open("wb") as file:
                torch.save(checkpoint, file)
                file.flush()
                os.fsync(file.fileno())  # or a machine that loses power may have renamed what it has not yet written
            fresh.replace(path)
        except (OSError, RuntimeError) as error:
            fresh.unlink(missing_ok=True)
            if (reason := no_room(error)) is None:
                raise
            raise UserError(not_written(path, reason)) from error


def with_whole_files(asked: Any) -> list[Any]:
    """The plugins that were asked for, and ours that writes checkpoints unless one of them does."""
    named = [] if asked is None else list(asked) if isinstance(asked, list) else [asked]
    return named if any(isinstance(plugin, CheckpointIO) for plugin in named) else [*named, WholeFiles()]
