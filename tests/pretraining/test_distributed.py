"""Two processes and two micro-steps give the gradient of one large batch."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from test_pretraining_runs import data, expected_gradient

from wavlm_lightning.data.batching import BatchPlan


@pytest.mark.slow
def test_two_ranks_two_micro_steps(tiny, tmp_path):
    script = Path(__file__).with_name("ddp_step.py")
    command = [sys.executable, str(script), str(tiny), str(tmp_path)]
    where = {**os.environ, "PYTHONPATH": str(script.parents[1])}
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, env=where)
    assert done.returncode == 0, done.stderr[-3000:]
    source = data(tiny, batch_seconds=2.0)
    source.setup("fit")
    loader = source.train_dataloader()
    crops, whole = loader.dataset, loader.sampler
    batches = []
    for rank in range(2):
        plan = BatchPlan(whole.samples, rank=rank, world_size=2, **whole.plan)
        batches += [(crops[items], rank, index) for index, items in zip(range(2), plan, strict=False)]
    expected = expected_gradient(source.label_set, batches)
    for rank in range(2):
        for got, wanted in zip(torch.load(tmp_path / f"rank{rank}.pt"), expected, strict=True):
            assert torch.allclose(got, wanted, atol=1e-6)
