"""Learning rates over updates: against transformers, fairseq's formula, and the one that pre-training always had."""

from __future__ import annotations

import math

import pytest
import torch
import transformers

from wavlm_lightning.system.errors import UserError
from wavlm_lightning.training.optimizers import learning_rate_factor, pretraining_schedule
from wavlm_lightning.training.schedules import Schedule

TOTAL = 400


def rates(schedule: Schedule, total: int = TOTAL, updates: int = TOTAL) -> list[list[float]]:
    """Of two groups, with peaks of 1 and 0.5, before each update."""
    groups = [{"params": [torch.nn.Parameter(torch.zeros(1))], "lr": peak} for peak in (1.0, 0.5)]
    optimizer = torch.optim.Adam(groups)
    scheduler = schedule.scheduler(optimizer, total)
    found = []
    for _ in range(updates):
        found.append([group["lr"] for group in optimizer.param_groups])
        optimizer.step()
        scheduler.step()
    return found


def of_transformers(name: str, **settings) -> list[float]:
    optimizer = torch.optim.Adam([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = transformers.get_scheduler(name, optimizer, **settings)
    found = []
    for _ in range(TOTAL):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return found


@pytest.mark.parametrize(
    ("schedule", "name"),
    [
        (Schedule("constant"), "constant"),
        (Schedule("constant", warmup=30), "constant_with_warmup"),
        (Schedule("linear", warmup=30), "linear"),
        (Schedule("linear", warmup=0.075), "linear"),
        (Schedule("cosine", warmup=30), "cosine"),
        (Schedule("inverse_sqrt", warmup=30), "inverse_sqrt"),
    ],
)
def test_as_in_transformers(schedule, name):
    settings = {} if name == "constant" else {"num_warmup_steps": 30}
    if name in ("linear", "cosine"):
        settings["num_training_steps"] = TOTAL
    wanted = of_transformers(name, **settings)
    for (first, second), want in zip(rates(schedule), wanted, strict=True):
        assert first == pytest.approx(want, abs=1e-12)
        assert second == pytest.approx(want / 2, abs=1e-12)


@pytest.mark.parametrize("shape", ["linear", "cosine"])
def test_no_warmup_begins_at_the_peak(shape):
    wanted = of_transformers(shape, num_warmup_steps=0, num_training_steps=TOTAL)
    assert [first for first, _ in rates(Schedule(shape))] == pytest.approx(wanted, abs=1e-12)


def fairseq_tri_stage(update: int, climb: int, hold: int, decay: int, peak: float = 1.0) -> float:
    """The rate after `update` updates by the formulas in the documentation of fairseq's `tri_stage`, scales 0.01 and 0.05."""
    low, end = 0.01 * peak, 0.05 * peak
    if update < climb:
        return low + (peak - low) / climb * update
    if update < climb + hold:
        return peak
    if update <= climb + hold + decay:
        return peak * math.exp(math.log(0.05) / decay * (update - climb - hold))
    return end


@pytest.mark.parametrize("schedule", [Schedule("tri_stage", 0.1, 0.4), Schedule("tri_stage", 40, 160)])
def test_tri_stage_as_in_fairseq(schedule):
    """The shares .1/.4/.5 of wav2vec 2.0; beyond the end the rate stays where it is."""
    found = [first for first, _ in rates(schedule, updates=TOTAL + 20)]
    assert found == pytest.approx([fairseq_tri_stage(n, 40, 160, 200) for n in range(TOTAL + 20)], rel=1e-12)


def test_a_schedule_longer_than_the_run():
    """HuBERT on 10 h stops after 25k updates of a schedule of 8k, 0 and 72k: at .05 ** (17 / 72) of the peak."""
    schedule = Schedule("tri_stage", warmup=8000, updates=80_000)
    assert schedule.factor(25_000, 25_000) == pytest.approx(0.05 ** (17 / 72), rel=1e-12)
    assert schedule.factor(25_000, 25_000) == pytest.approx(0.493, abs=5e-4)


def test_floors_and_starts():
    schedule = Schedule("linear", warmup=100, start=0.5, final=0.1)
    assert [schedule.factor(n, 300) for n in (0, 50, 100, 200, 300, 500)] == pytest.approx(
        [0.5, 0.75, 1, 0.55, 0.1, 0.1]
    )
    assert Schedule("cosine", final=0.2).factor(150, 300) == pytest.approx(0.6)


@pytest.mark.parametrize(
    ("shape", "cooldown"), [("linear", "linear"), ("one_minus_sqrt", "1-sqrt"), ("cosine", "cosine")]
)
def test_warmup_stable_decay_as_in_transformers(shape, cooldown):
    """WSD: the length of the decay is given, in updates or as a share, or that of the stable part."""
    how = {"num_decay_steps": 80, "decay_type": cooldown}
    wanted = of_transformers(
        "warmup_stable_decay", num_warmup_steps=30, num_training_steps=TOTAL, scheduler_specific_kwargs=how
    )
    for settings in ({"decay": 80}, {"decay": 0.2}, {"hold": 290}):
        assert [first for first, _ in rates(Schedule(shape, warmup=30, **settings))] == pytest.approx(wanted, abs=1e-12)


def test_before_the_decay_the_rates_do_not_depend_on_the_length_of_the_run():
    schedule = Schedule("one_minus_sqrt", warmup=30, decay=80, final=0.1)
    short, long = ([schedule.factor(n, total) for n in range(total + 5)] for total in (TOTAL, 2 * TOTAL))
    assert short[: TOTAL - 79] == long[: TOTAL - 79] and set(short[30 : TOTAL - 79]) == {1.0}
    assert short[TOTAL - 80 :] == long[2 * TOTAL - 80 :]
    assert short[-5:] == pytest.approx([0.1] * 5)


def always(step: int, total: int, warmup: float, decay: str) -> float:
    """The formula of pre-training before schedules, word by word."""
    climb = max(1.0, warmup * total)
    if step < climb:
        return step / climb
    rest = min(1.0, (step - climb) / max(1.0, total - climb))
    return 1.0 - rest if decay == "linear" else 0.5 * (1.0 + math.cos(math.pi * rest))


@pytest.mark.parametrize("decay", ["linear", "cosine"])
@pytest.mark.parametrize("warmup", [0.0, 0.001, 0.08, 0.32, 1.0])
@pytest.mark.parametrize("total", [1, 7, 45, 400])
def test_pretraining_keeps_its_rates_to_the_last_bit(decay, warmup, total):
    wanted = [always(step, total, warmup, decay) for step in range(total + 3)]
    assert [learning_rate_factor(step, total, warmup, decay) for step in range(total + 3)] == wanted
    found = rates(pretraining_schedule(decay, warmup, total), total, total + 3)
    assert [first for first, _ in found] == wanted


def test_pretraining_takes_updates_too():
    assert learning_rate_factor(16_000, 400_000, 32_000) == 0.5


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"warmup": -1}, "must not be negative"),
        (
            {"shape": "inverse_sqrt", "warmup": 4, "hold": 0.1},
            "schedule.hold belongs to shapes .*, not to inverse_sqrt",
        ),
        ({"shape": "constant", "decay": 0.1}, "schedule.decay belongs to shapes .*, not to constant"),
        ({"shape": "linear", "decay": 0}, "schedule.decay 0: give a share"),
        ({"shape": "linear", "hold": 0.1, "decay": 0.1}, "schedule.hold and schedule.decay: .* give one of them"),
        ({"shape": "inverse_sqrt"}, "falls from the end of its warm-up; set it"),
        ({"shape": "constant", "final": 0.1}, "schedule.final: shape constant has no end"),
        ({"shape": "linear", "start": 2.0}, "schedule.start 2.0: a factor on the learning rate"),
        ({"shape": "tri_stage", "final": 0}, "an exponential never gets there"),
    ],
)
def test_what_makes_no_sense_is_refused(settings, message):
    with pytest.raises(UserError, match=message):
        Schedule(**settings)


def test_a_schedule_that_does_not_fit_the_run_is_refused():
    with pytest.raises(UserError, match=r"set trainer\.max_steps"):
        rates(Schedule("linear"), total=-1)
    with pytest.raises(UserError, match=r"set trainer\.max_steps"):
        rates(Schedule("constant", warmup=0.1), total=-1)
    with pytest.raises(UserError, match="warmup and hold take 500 updates, but the schedule has 400"):
        rates(Schedule("tri_stage", warmup=0.25, hold=400))
    with pytest.raises(UserError, match="warmup and decay take 500 updates, but the schedule has 400"):
        rates(Schedule("linear", warmup=0.25, decay=400))
    assert rates(Schedule("inverse_sqrt", warmup=4), total=-1, updates=17)[16] == [0.5, 0.25]


def test_the_exponential_is_wespeakers():
    """LR0 x (LR1 / LR0)^(t / T), times t / T_w in the warm-up."""
    first, last, warm = 0.1, 1e-5, 16
    found = rates(Schedule("exponential", warmup=warm, final=last / first))
    for update, (rate, half) in enumerate(found):
        wanted = (last / first) ** (update / TOTAL) * min(1.0, update / warm)
        assert rate == pytest.approx(wanted, rel=1e-12) and half == pytest.approx(wanted / 2, rel=1e-12)
    assert Schedule("exponential", final=0.25).factor(TOTAL + 5, TOTAL) == 0.25
    with pytest.raises(UserError, match="never gets there"):
        Schedule("exponential", final=0.0)
