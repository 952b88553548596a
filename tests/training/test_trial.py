"""The short timing that chooses threads and precision."""

from __future__ import annotations

import time

import pytest
import torch

from wavlm_lightning.training import trial


def test_trials_take_turns_and_the_first_round_does_not_count():
    calls = []

    def slow_at_first(name: str, seconds: float):
        def run() -> None:
            calls.append(name)
            time.sleep(0.05 if calls.count(name) == 1 else seconds)

        return run

    seconds = trial.seconds_of({"a": slow_at_first("a", 0.001), "b": slow_at_first("b", 0.01)}, rounds=3)
    assert calls == ["a", "b"] * 4
    assert 0.001 <= seconds["a"] < seconds["b"] < 0.05


@pytest.mark.parametrize(
    ("seconds", "chosen"),
    [
        ({4: 1.0, 3: 0.9, 2: 1.1, 1: 2.0}, 4),
        ({4: 3.0, 3: 1.2, 2: 1.0, 1: 1.5}, 2),
        ({4: 1.1, 3: 2.0, 2: 3.0, 1: 1.0}, 4),
    ],
)
def test_fewer_threads_must_be_clearly_faster(monkeypatch, seconds, chosen):
    before, now = torch.get_num_threads(), [4]
    monkeypatch.setattr(trial.torch, "set_num_threads", lambda threads: now.__setitem__(0, threads))
    monkeypatch.setattr(trial.torch, "get_num_threads", lambda: now[0])
    monkeypatch.setattr(trial, "training_step", lambda precision: lambda: None)
    monkeypatch.setattr(trial, "seconds_of", lambda trials: {name: seconds[int(name)] for name in trials})
    assert trial.fastest_threads() == chosen
    assert now == [4]
    monkeypatch.undo()
    assert torch.get_num_threads() == before


def test_the_faster_precision_is_taken(monkeypatch):
    monkeypatch.setattr(trial, "cpu_bf16_instructions", lambda: ["avx512_bf16"])
    monkeypatch.setattr(trial, "seconds_of", lambda trials: {"bf16-mixed": 2.0, "32-true": 1.0})
    assert trial.faster_precision() == "32-true"
    monkeypatch.setattr(trial, "seconds_of", lambda trials: {"bf16-mixed": 1.0, "32-true": 2.0})
    assert trial.faster_precision() == "bf16-mixed"
    monkeypatch.setattr(trial, "cpu_bf16_instructions", list)
    assert trial.faster_precision() == "32-true"


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_a_trial_leaves_random_numbers_alone(precision):
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    step = trial.training_step(precision)
    step()
    assert torch.equal(torch.rand(4), expected)
