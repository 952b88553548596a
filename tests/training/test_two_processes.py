"""Every LightningModule in two processes, with ddp and fsdp2: the weights of one process that sees the same batches."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from filelock import FileLock
from in_ranks import DDP_ALONE, MODULES, PRETRAINING, STRATEGIES, TASKS, UPDATES, build, everything, trainer_of
from ranks import together

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1300)]
EACH = pytest.mark.parametrize("strategy", STRATEGIES)


@pytest.fixture(scope="module")
def out(tiny, tmp_path_factory) -> Path:
    """What two processes have found, and one; see in_ranks."""
    # Once for all of pytest's workers, which share the folder above their own.
    own = tmp_path_factory.getbasetemp()
    folder = (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "ranks"
    folder.mkdir(exist_ok=True)
    with FileLock(folder / "lock"):
        if not (folder / "done").exists():
            together(2, folder / "two", everything, tiny, folder, 2, STRATEGIES, seconds=600)
            together(1, folder / "one", everything, tiny, folder, 1, ("auto",), seconds=600)
            (folder / "done").touch()
    return folder


@pytest.fixture(scope="module")
def two(out) -> list[dict[str, Any]]:
    """By process."""
    return [torch.load(out / f"{rank}-of-2.pt", weights_only=False) for rank in range(2)]


@pytest.fixture(scope="module")
def one(out) -> dict[str, Any]:
    return torch.load(out / "0-of-1.pt", weights_only=False)["auto"]


def apart(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> float:
    assert first.keys() == second.keys()
    return max(float((value - second[name]).abs().max()) for name, value in first.items())


@EACH
@pytest.mark.parametrize("name", MODULES)
def test_two_processes_train_as_one(two, one, strategy, name):
    """One process makes an update of two batches, two processes make it of one each; the batches differ in size."""
    ranks = [each[strategy][name] for each in two]
    alone = one[name]
    assert [each["updates"] for each in (*ranks, alone)] == [UPDATES] * 3
    assert apart(ranks[0]["before"], alone["before"]) == 0.0
    assert apart(ranks[0]["after"], ranks[1]["after"]) == 0.0
    assert apart(ranks[0]["after"], alone["after"]) < 1e-5
    assert apart(alone["before"], alone["after"]) > 1e-3
    moved = [key for key, value in alone["after"].items() if not torch.equal(value, alone["before"][key])]
    assert len(moved) > 0.8 * len(alone["after"])
    if name in TASKS:
        encoder = [key for key in alone["after"] if key.startswith("upstream.")]
        assert all(key.startswith("upstream.front_end.") for key in encoder)  # which learns through the frozen encoder


@pytest.mark.parametrize("name", DDP_ALONE)
def test_heads_with_batch_norm_train_as_one_under_ddp(two, one, name):
    """Each batch is normalised by itself, in one process and in two; only running statistics differ, which ranks share."""
    ranks, alone = [each["ddp"][name] for each in two], one[name]
    assert apart(ranks[0]["after"], ranks[1]["after"]) == 0.0
    assert apart(ranks[0]["after"], alone["after"]) < 1e-5 < 1e-3 < apart(alone["before"], alone["after"])
    assert ranks[0]["test"] == pytest.approx(ranks[1]["test"], abs=1e-6)


@EACH
@pytest.mark.parametrize("name", [name for name in MODULES if name not in PRETRAINING])
def test_two_processes_score_as_one(two, one, strategy, name):
    for each in two:
        assert each[strategy][name]["test"] == pytest.approx(one[name]["test"], abs=1e-4)
    first = two[0][strategy][name]
    assert first["layer_weights"] == pytest.approx(one[name]["layer_weights"], abs=1e-5)
    assert first["sha256"] and (name not in TASKS or first["sha256"] == one[name]["sha256"])


@EACH
def test_the_first_process_shows_what_was_scored(two, one, strategy):
    """Under fsdp2 a forward pass of the first process alone would wait for the weights of the second."""
    (table,) = two[0][strategy]["KS trained"]["shown"]
    assert two[1][strategy]["KS trained"]["shown"] == []
    (alone,) = one["KS trained"]["shown"]
    assert len(table) == len(alone) == 2 and table[0][0] == alone[0][0]
    assert two[0][strategy]["SE trained"]["heard"] and two[1][strategy]["SE trained"]["heard"] == []
    said, wanted = (json.loads(rows[0][2]) for rows in (table, alone))
    assert said["keyword"] == wanted["keyword"] and said["probability"] == pytest.approx(
        wanted["probability"], abs=1e-3
    )


@EACH
def test_two_processes_predict_as_one(two, one, strategy):
    rows = {**two[0][strategy]["predictions"], **two[1][strategy]["predictions"]}
    assert apart(rows, one["predictions"]) < 1e-5


@EACH
def test_head_first_then_the_encoder_resumes_exactly(two, strategy):
    """Before the encoder wakes up (after 2 updates) its optimiser state is empty; after it, its step counts differ."""
    for each in two:
        found = each[strategy]["resumed"]
        assert apart(found["straight"], found["from 1"]) == apart(found["straight"], found["from 3"]) == 0.0
        assert apart(found["straight"], each[strategy]["KS tuned"]["after"]) == 0.0


def test_one_process_resumes_exactly(one):
    found = one["resumed"]
    assert apart(found["straight"], found["from 1"]) == apart(found["straight"], found["from 3"]) == 0.0


@EACH
def test_a_checkpoint_of_a_task_resumes_under_the_other_strategy(two, one, strategy):
    """It is one file, with the optimiser's state as any optimiser of torch writes it."""
    for each in two:
        for step in (1, 3):
            assert apart(each[strategy]["crossed"][f"from {step}"], one["KS tuned"]["after"]) < 1e-5


@EACH
def test_a_checkpoint_of_a_task_is_read_in_one_process(tiny, out, one, strategy):
    model, data = build(tiny, "KS tuned")
    trainer = trainer_of(1, "auto")
    trainer.test(model, data, out / f"{strategy}-of-2" / f"step={UPDATES}.ckpt", verbose=False, weights_only=True)
    figures = {key: float(value) for key, value in trainer.callback_metrics.items()}
    assert figures == pytest.approx(one["KS tuned"]["test"], abs=1e-4)
