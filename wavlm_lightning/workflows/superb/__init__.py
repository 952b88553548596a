"""SUPERB and further tasks: train and test heads on frozen encoders, any list of tasks, one table (`wavlm superb`).

Reading order: `benchmark` (`run_superb`: plan, run, settle, tables), `suites` (the tasks, each known by its YAML), `cells` (what
has to be run for each task on each upstream), `controls` (rows of chance and of permuted labels), `official` (whether a result
may be compared with the published rows).
"""

from wavlm_lightning.workflows.superb.benchmark import Board, run_superb, superb_commands

__all__ = ["Board", "run_superb", "superb_commands"]
