"""`wavlm plan`: memory, updates and GPU-hours of a pre-training, and of what is fine-tuned after it, before it starts.

Reading order: `costs` (`plan`), `training`, `labels` and `fine_tuning` (the cost of each step), `assumptions` (what the
configuration does not say), `text` (output), `cluster` (scripts for SLURM and torchrun). Tests:
`tests/workflows/test_plan.py` and `test_cluster_files.py`.
"""

from wavlm_lightning.workflows.plan.assumptions import Assumptions
from wavlm_lightning.workflows.plan.cluster import cluster_files
from wavlm_lightning.workflows.plan.costs import StagePlan, plan
from wavlm_lightning.workflows.plan.fine_tuning import FineTuningPlan, fine_tuning_plans

__all__ = ["Assumptions", "FineTuningPlan", "StagePlan", "cluster_files", "fine_tuning_plans", "plan"]
