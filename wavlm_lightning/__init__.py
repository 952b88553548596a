"""Pre-train WavLM on your own speech and know, the same day, how good the encoder is.

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

from wavlm_lightning import moved as _moved
from wavlm_lightning.system import user_modules as _user_modules

__version__ = "0.1.0"

_moved.install()
_user_modules.install()
