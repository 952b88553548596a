"""`wavlm plan`: memory, updates and GPU-hours of a pre-training before it starts.

Reading order: `costs` (`plan`), `training` and `labels` (the cost of each step), `assumptions` (what the configuration does
not say), `text` (output), `cluster` (scripts for SLURM and torchrun). Tests: `tests/workflows/test_plan.py` and
`test_cluster_files.py`.
"""

from wavlm_lightning.workflows.plan.assumptions import Assumptions
from wavlm_lightning.workflows.plan.cluster import cluster_files
from wavlm_lightning.workflows.plan.costs import StagePlan, plan

__all__ = ["Assumptions", "StagePlan", "cluster_files", "plan"]
