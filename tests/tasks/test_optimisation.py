"""How a task updates its weights: optimiser, parameter groups, schedule, and an encoder that waits."""

from __future__ import annotations

import pytest
import torch
from quiet import quiet_trainer

from wavlm_lightning.system.errors import UserError
from wavlm_lightning.tasks import KeywordSpotting, TaskData
from wavlm_lightning.training.schedules import Schedule
from wavlm_lightning.upstreams import WavLMUpstream
from wavlm_lightning.upstreams.fine_tuning import FineTuning

SHAPE = {"layers": 3, "conv_channels": [8, 8, 8, 8, 16, 16, 32], "dim": 32, "heads": 2, "ffn_dim": 64}


def keywords(fine_tuning: FineTuning | None = None, frozen: bool = False, **settings) -> KeywordSpotting:
    return KeywordSpotting(
        WavLMUpstream("tiny", overrides=SHAPE, frozen=frozen, fine_tuning=fine_tuning), learning_rate=1e-2, **settings
    )


def fit(tiny, task, updates: int, **settings):
    trainer = quiet_trainer(max_steps=updates, limit_val_batches=0, **settings)
    trainer.fit(task, TaskData(str(tiny / "ks"), batch_size=4))
    return trainer


@pytest.mark.parametrize("frozen", [True, False])
def test_the_default_is_one_group_of_adam_at_a_constant_rate(frozen):
    """In the order of the module, as it always was: old checkpoints resume, and clipping sums norms in this order."""
    task = keywords(frozen=frozen)
    task.build(["yes", "no"])
    optimizer = task.configure_optimizers()
    assert type(optimizer) is torch.optim.Adam
    (group,) = optimizer.param_groups
    assert all(a is b for a, b in zip(group["params"], (p for p in task.parameters() if p.requires_grad), strict=True))
    assert (group["lr"], group["betas"], group["eps"], group["weight_decay"]) == (1e-2, (0.9, 0.999), 1e-8, 0)


def test_groups_of_layer_wise_rates_and_decay():
    task = keywords(FineTuning(learning_rate=1e-3, layer_decay=0.5), weight_decay=0.1, decay_all=False)
    task.build(["yes", "no"])
    optimizer = task.configure_optimizers()
    assert type(optimizer) is torch.optim.AdamW
    groups = {group["name"]: group for group in optimizer.param_groups}
    assert {name: group["lr"] for name, group in groups.items() if name.startswith("head")} == {
        "head": 1e-2,
        "head, no decay": 1e-2,
    }
    theirs = [group for name, group in groups.items() if not name.startswith("head")]
    assert sorted({group["lr"] for group in theirs}) == pytest.approx([1e-3 * 0.5**depth for depth in (3, 2, 1, 0)])
    assert {group["weight_decay"] for group in theirs} == {0.1, 0.0}
    grouped = [id(parameter) for group in optimizer.param_groups for parameter in group["params"]]
    assert sorted(grouped) == sorted(id(parameter) for parameter in task.parameters() if parameter.requires_grad)
    assert all(
        p.squeeze().ndim < 2 for group in optimizer.param_groups if not group["weight_decay"] for p in group["params"]
    )


def test_a_waiting_encoder_is_left_alone(tiny):
    """Before update 3 neither weight decay nor moments touch it; then it trains."""
    settings = FineTuning(from_update=3, learning_rate=1e-3)
    for updates in (3, 4):
        task = keywords(settings, weight_decay=0.5)
        before = {name: value.clone() for name, value in task.upstream.state_dict().items()}
        optimizer = fit(tiny, task, updates, gradient_clip_val=1.0).optimizers[0]
        waited = all(torch.equal(value, before[name]) for name, value in task.upstream.state_dict().items())
        assert waited == (updates == 3)
        stepped = [p for p in task.upstream.parameters() if p in optimizer.state]
        assert [int(optimizer.state[p]["step"]) for p in stepped] == [1] * len(stepped)
        assert bool(stepped) == (updates == 4)
        assert int(optimizer.state[task.classifier.weight]["step"]) == updates


def test_a_schedule_moves_every_rate_once_an_update(tiny):
    task = keywords(FineTuning(learning_rate=1e-3), schedule=Schedule("linear", warmup=2))
    trainer = fit(tiny, task, 4, accumulate_grad_batches=2)
    assert [group["lr"] for group in trainer.optimizers[0].param_groups] == [0.0, 0.0]
    task = keywords(FineTuning(learning_rate=1e-3), schedule=Schedule("constant", warmup=8))
    trainer = fit(tiny, task, 4, accumulate_grad_batches=2)
    assert [group["lr"] for group in trainer.optimizers[0].param_groups] == pytest.approx([5e-3, 5e-4])


class Own(KeywordSpotting):
    """A task of someone else, which makes its own optimiser."""

    def configure_optimizers(self):
        return torch.optim.SGD([p for p in self.parameters() if p.requires_grad], lr=self.learning_rate)


def test_an_optimiser_of_its_own_still_runs_and_ignores_nothing_silently(tiny):
    encoder = WavLMUpstream("tiny", overrides=SHAPE)
    fit(tiny, Own(encoder, learning_rate=1e-2), 1)
    for settings in ({"schedule": Schedule("linear")}, {"weight_decay": 0.1}):
        with pytest.raises(UserError, match=f"KS: makes its own optimiser, which ignores model.{next(iter(settings))}"):
            fit(tiny, Own(encoder, learning_rate=1e-2, **settings), 1)
    tuned = WavLMUpstream("tiny", overrides=SHAPE, frozen=False, fine_tuning=FineTuning(learning_rate=1e-4))
    with pytest.raises(UserError, match="ignores the learning rates of model"):
        fit(tiny, Own(tuned, learning_rate=1e-2), 1)
