"""The demo: synthetic corpus, codebook, pre-training, three heads on three upstreams, report (`wavlm demo`).

Reading order: `stages` (what is run, in order, and the report), `heads` (tasks, upstreams and learning rates).
"""

from wavlm_lightning.workflows.demo.stages import run_demo

__all__ = ["run_demo"]
