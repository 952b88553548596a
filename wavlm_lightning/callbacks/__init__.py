"""Lightning callbacks and loggers that `wavlm` adds to a trainer, or that a YAML names.

`wavlm_lightning.callbacks.Probe`, `MoveValue` and `Wandb` beside it are the class paths for a YAML; they are imported when
they are first asked for. In reading order: `checkpoints`, `progress`, `transcripts` (sentences of a validation), `results`
(result card, predictions), `examples` (sounds of a test), `probe`, `moving` (a margin over the updates), `wandb`,
`joint_heads` (several heads in one run). The package may import everything below `workflows`. Tests: `tests/callbacks`.
"""

from importlib import import_module
from typing import Any

_FILES = {
    "MoveValue": "moving",
    "Probe": "probe",
    "Wandb": "wandb",
}  # imported on demand: `wavlm doctor` uses this package without Lightning
__all__ = ["MoveValue", "Probe", "Wandb"]


def __getattr__(name: str) -> Any:
    if name not in _FILES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_FILES[name]}"), name)
