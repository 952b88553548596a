"""Pre-train WavLM on your own speech and know, the same day, how good the encoder is.

`load_encoder(SOURCE)` and `load_head(RUN)` open encoders and trained heads; the rest is a command, `wavlm`.

Importing the package imports nothing heavy. Its packages in reading order, lowest floor first; each imports only from those
above it in this list, and its `__init__` says more:

- `encoder`: WavLM in plain PyTorch. `system`: files, processes, hardware, errors, names. `audio`, `metrics`, `augment`.
- `data`: corpora on disk, batches. `upstreams`: encoders as sources of features. `training`: what both trainings share.
  `reports`: result cards, tables, plots, pages.
- `codebooks`: one label a frame for pre-training. `tasks`: downstream heads.
- `pretraining`: the training of the encoder.
- `callbacks`: Lightning callbacks and loggers.
- `workflows`: the machine behind each verb, callable from Python. `cli`: the `wavlm` command.

Import paths of older versions are in `moved`.
"""

from typing import TYPE_CHECKING, Any

from wavlm_lightning import moved as _moved
from wavlm_lightning.system import user_modules as _user_modules

if TYPE_CHECKING:
    from wavlm_lightning.workflows.from_python import load_encoder, load_head

__all__ = ["__version__", "load_encoder", "load_head"]
__version__ = "0.1.0"

_moved.install()
_user_modules.install()


def __getattr__(name: str) -> Any:
    if name in ("load_encoder", "load_head"):
        from wavlm_lightning.workflows import from_python

        return getattr(from_python, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
