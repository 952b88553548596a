"""SUPERB: train and test heads on frozen encoders, any subset of ten tasks, one table (`wavlm superb`).

Reading order: `benchmark` (`run_superb`: plan, run, settle, tables), `cells` (what has to be run for each task on each
upstream), `official` (whether a result may be compared with the published rows).
"""

from wavlm_lightning.workflows.superb.benchmark import Board, run_superb, superb_commands

__all__ = ["Board", "run_superb", "superb_commands"]
