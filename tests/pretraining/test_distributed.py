"""Two processes: the gradient of one large batch, the same layers dropped, the same updates left out."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from test_pretraining_runs import data, expected_gradient

from wavlm_lightning.data.batching import BatchPlan


def run(name: str, tiny: Path, out: Path) -> None:
    script = Path(__file__).with_name(name)
    where = {**os.environ, "PYTHONPATH": str(script.parents[1])}
    command = [sys.executable, str(script), str(tiny), str(out)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, env=where)
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.slow
def test_two_ranks_two_micro_steps(tiny, tmp_path):
    run("ddp_step.py", tiny, tmp_path)
    source = data(tiny, batch_seconds=2.0)
    source.setup("fit")
    loader = source.train_dataloader()
    crops, whole = loader.dataset, loader.sampler
    batches = []
    for rank in range(2):
        plan = BatchPlan(whole.samples, rank=rank, world_size=2, **whole.plan)
        batches += [(crops[items], rank, index) for index, items in zip(range(2), plan, strict=False)]
    expected = expected_gradient(source, batches)
    for rank in range(2):
        for got, wanted in zip(torch.load(tmp_path / f"rank{rank}.pt"), expected, strict=True):
            assert torch.allclose(got, wanted, atol=1e-6)


@pytest.mark.slow
def test_ranks_drop_the_same_layers_and_skip_together(tiny, tmp_path):
    """Without find_unused_parameters: a layer that one rank alone had dropped would leave the other waiting."""
    run("ddp_together.py", tiny, tmp_path)
    one, other = (torch.load(tmp_path / f"together{rank}.pt") for rank in range(2))
    assert one["dropped"] == other["dropped"]
    drawn = [layer for layers in one["dropped"] for layer in layers]
    assert any(drawn) and not all(drawn)
    assert one["skipped"] == other["skipped"] == [1, 0]
    for name, value in one["weights"].items():
        assert torch.isfinite(value).all() and torch.equal(value, other["weights"][name])
