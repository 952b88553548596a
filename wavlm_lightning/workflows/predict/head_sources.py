"""A head from wherever there is one: a run of `wavlm fit`, or a folder of the transformers library."""

from __future__ import annotations

from pathlib import Path

import torch

from wavlm_lightning.callbacks.checkpoints import BEST
from wavlm_lightning.encoder import CheckpointError
from wavlm_lightning.encoder.checkpoints.tensor_files import read_json
from wavlm_lightning.system.errors import UserError
from wavlm_lightning.tasks.huggingface.reading import HEADS, huggingface_head, is_head_folder
from wavlm_lightning.upstreams.wavlm import read_run_checkpoint
from wavlm_lightning.workflows.predict.trained_head import TrainedHead, load_head


def holds_head(path: Path) -> bool:
    """Whether a head lies there, rather than an encoder alone.

    Args:
        path: a run folder, a folder in Hugging Face's format, or anything else.
    """
    best = path / "checkpoints" / f"{BEST}.ckpt"
    if best.is_file():
        return "task" in read_run_checkpoint(best)
    if not is_head_folder(path):
        return False
    try:
        named = read_json(path / "config.json").get("architectures") or [""]
    except CheckpointError as error:
        raise UserError(str(error)) from error
    return str(named[0]).endswith(HEADS)


def open_head(path: Path, device: str | None = None) -> TrainedHead:
    """Open it.

    Args:
        path: a run folder that `wavlm fit` has made, or a folder in Hugging Face's format.
        device: where to run; the GPU if there is one by default.

    Raises:
        UserError: it is neither, or its upstream or the device is gone.
    """
    if not is_head_folder(path):
        return load_head(path, device)
    task = huggingface_head(str(path))
    processing = task.trained["processing"]
    try:
        place = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        task.to(place)
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"--device {device}: not usable here ({str(error).splitlines()[0]})") from error
    return TrainedHead(task, float(processing.get("gain_db", 0.0)), bool(processing.get("trim")), place)
