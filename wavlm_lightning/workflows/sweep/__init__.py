"""`wavlm sweep`: hyper-parameter search from a W&B sweep file, with Optuna and without a server.

Reading order: `file` (the sweep file), `study` (its trials in an Optuna study), `runs` (`run_sweep`: trains, tests and
ranks the trials), `pruning` (ends hopeless trials). Tests: `tests/workflows/test_sweep*.py`.
"""

from wavlm_lightning.workflows.sweep.file import SweepFile, read_sweep
from wavlm_lightning.workflows.sweep.runs import run_sweep

__all__ = ["SweepFile", "read_sweep", "run_sweep"]
