"""Encoders in the checkpoints of runs: of pre-training, and of heads that trained their encoder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor

from wavlm_lightning.encoder import CheckpointError
from wavlm_lightning.encoder.checkpoints.formats import HEAD_KEY, RECORD_KEY
from wavlm_lightning.encoder.checkpoints.sharded_files import EXTRAS, check_hashes, read_sharded
from wavlm_lightning.encoder.checkpoints.tensor_files import read_pickle
from wavlm_lightning.system.errors import UserError
from wavlm_lightning.system.run_folder import BEST, LAST, checkpoint


def newest_checkpoint(path: Path) -> Path:
    """The newest checkpoint of a run folder, or the best one if it holds a head; any other path unchanged."""
    newest, best = checkpoint(path, LAST), checkpoint(path, BEST)
    if not newest.exists():
        return best if best.exists() else path
    # A head is used as it was at its best; a pre-training continues from its last update.
    return best if best.exists() and HEAD_KEY in read_entries(newest) else newest


def read_run_checkpoint(path: Path) -> dict[str, Any]:
    """Read the checkpoint of a run (a file, or the folder of a sharded run) to the CPU.

    A sharded checkpoint comes without the optimiser's state. A UserError says if the checkpoint is not readable.
    """
    if path.is_dir():
        try:
            return read_sharded(path)
        except CheckpointError as error:
            raise UserError(str(error)) from error
    return _read(path, checked=True)


def _read(path: Path, checked: bool) -> dict[str, Any]:
    try:
        # Memory-mapped, because two thirds of a file are optimiser state.
        content = read_pickle(path, mapped=True, checked=checked)
    except CheckpointError as error:
        raise UserError(str(error)) from error
    if not isinstance(content, dict) or not isinstance(content.get("state_dict"), dict):
        raise UserError(f"{path}: not the checkpoint of a run: it has no state_dict")
    return content


def read_entries(path: Path) -> dict[str, Any]:
    """The entries of a run's checkpoint besides its tensors, which are not read; see `read_run_checkpoint`."""
    if not path.is_dir():
        return _read(path, checked=False)
    try:
        check_hashes(path, names=(EXTRAS,))
        return read_pickle(path / EXTRAS)
    except CheckpointError as error:
        raise UserError(str(error)) from error


def trained_encoder(path: str | Path) -> dict[str, Any] | None:
    """The record of the encoder that a run trained with its head (see `Upstream.checkpoint_entries`); None if `path` holds none.

    `path` may be anything: a run folder, a checkpoint, a folder in another format, a name.
    """
    path = newest_checkpoint(Path(path))
    if path.suffix != ".ckpt" or not path.exists():
        return None
    return read_entries(path).get(RECORD_KEY)


def read_trained(path: str | Path, key: str) -> tuple[dict[str, Any], dict[str, Tensor]] | None:
    """The record of a trained encoder and its weights under the names of its own class; None if `path` holds none.

    `key` is an entry that the records of the class have; a UserError says if the encoder is of another class.
    """
    record = trained_encoder(path)
    if record is None:
        return None
    path = newest_checkpoint(Path(path))
    if key not in record:
        raise UserError(f"{path}: its encoder is a {record['class']}; give it to that class")
    state, prefix = read_run_checkpoint(path)["state_dict"], record["prefix"]
    return record, {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
