"""Two processes, sharded or not: the gradient of one large batch, the same layers dropped, updates left out, and curve."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from test_pretraining_runs import data, expected_gradient

from wavlm_lightning.data.batching import BatchPlan

STRATEGIES = ("ddp", "fsdp2")


def run(name: str, tiny: Path, out: Path, *arguments: str) -> None:
    script = Path(__file__).with_name(name)
    where = {**os.environ, "PYTHONPATH": os.pathsep.join([str(script.parents[1]), os.environ.get("PYTHONPATH", "")])}
    command = [sys.executable, str(script), str(tiny), str(out), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, env=where)
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.slow
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_two_ranks_two_micro_steps(tiny, tmp_path, strategy):
    run("ddp_step.py", tiny, tmp_path, strategy)
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
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_ranks_drop_the_same_layers_and_skip_together(tiny, tmp_path, strategy):
    """Without find_unused_parameters: a layer that one rank alone had dropped would leave the other waiting."""
    run("ddp_together.py", tiny, tmp_path, strategy)
    one, other = (torch.load(tmp_path / f"together{rank}.pt") for rank in range(2))
    assert one["dropped"] == other["dropped"]
    drawn = [layer for layers in one["dropped"] for layer in layers]
    assert any(drawn) and not all(drawn)
    assert one["skipped"] == other["skipped"] == [1, 0]
    for name, value in one["weights"].items():
        assert torch.isfinite(value).all() and torch.equal(value, other["weights"][name])


@pytest.mark.slow
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_one_rank_and_two_follow_the_same_curve(tiny, tmp_path, strategy):
    """20 updates in fp32: one process makes two micro-steps of the crops, masks, mixtures and dropouts of two processes."""
    for ranks in (1, 2):
        run("ddp_curve.py", tiny, tmp_path, strategy, str(ranks))
    alone, (first, second) = (
        [torch.load(tmp_path / f"{strategy}-{ranks}-{rank}.pt") for rank in range(ranks)] for ranks in (1, 2)
    )
    micro = alone[0]["micro"]
    assert [step["audio"] for step in micro[::2]] == [step["audio"] for step in first["micro"]]
    assert [step["audio"] for step in micro[1::2]] == [step["audio"] for step in second["micro"]]
    assert [step["dropped"] for step in micro[::2]] == [step["dropped"] for step in second["micro"]]
    assert any(any(step["dropped"]) for step in micro) and len({step["frames"] for step in micro}) > 1
    one = curve(micro[::2], micro[1::2])
    two = curve(first["micro"], second["micro"])
    assert len(one) == 20 and min(one) < one[0]
    assert max(abs(a - b) for a, b in zip(one, two, strict=True)) < 1e-5
    for name, value in alone[0]["weights"].items():
        assert torch.allclose(value, first["weights"][name], atol=1e-4), name


def curve(*shares: list[dict]) -> list[float]:
    """The loss of each update: the sum over its micro-batches, divided by all their masked frames."""
    return [
        sum(step["sum"] for step in steps) / sum(step["frames"] for step in steps)
        for steps in zip(*shares, strict=True)
    ]
