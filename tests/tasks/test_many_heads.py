"""Several heads from one pass: each is what it is alone, whatever becomes of the others."""

from __future__ import annotations

from types import SimpleNamespace
from typing import ClassVar

import pytest
import torch
from head_helpers import CountedFbank, brief_trainer

from wavlm_lightning.system.errors import UserError
from wavlm_lightning.tasks import KeywordSpotting, PhonemeRecognition, QueryByExample, TaskData
from wavlm_lightning.tasks.joint.many_heads import ManyHeads
from wavlm_lightning.upstreams import Fbank, Upstream


class Poisoned(KeywordSpotting):
    """Its loss at the second micro-batch of the second update is not a number, if its rate is in `rates`."""

    rates: ClassVar[set[float]] = {1e-3}

    def loss(self, outputs, lengths, targets):
        bad = self.learning_rate in self.rates and self.trainer.fit_loop.epoch_loop.batch_progress.total.ready == 4
        return super().loss(outputs, lengths, targets) * (float("nan") if bad else 1.0)


class Scheduled(KeywordSpotting):
    """Two schedulers: one steps with the updates, the other watches validation."""

    def configure_optimizers(self):
        optimizer = torch.optim.AdamW(self.parameters(), lr=self.learning_rate, weight_decay=0.1)
        every = torch.optim.lr_scheduler.LinearLR(optimizer, 0.1, 1.0, 3)
        plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, mode="max", factor=0.5, patience=0)
        return [optimizer], [
            {"scheduler": every, "interval": "step"},
            {"scheduler": plateau, "interval": "step", "monitor": "valid/accuracy", "frequency": 4},
        ]


def fit(model, tiny, updates: int = 4):
    trainer = brief_trainer(updates)
    trainer.fit(model, TaskData(str(tiny / "ks"), batch_size=4))
    return trainer


@pytest.mark.parametrize("task", [Poisoned, Scheduled])
def test_a_head_is_what_it_is_alone(tiny, task):
    rates, upstream = (1e-2, 1e-3, 1e-4), CountedFbank(cmvn=False)
    many = ManyHeads({f"rate-{rate}": task(upstream, rate) for rate in rates})
    trainer = fit(many, tiny)
    assert trainer.global_step == 4
    for rate, (label, head) in zip(rates, many.heads().items(), strict=True):
        alone = task(CountedFbank(cmvn=False), rate)
        metrics = fit(alone, tiny).callback_metrics
        assert upstream.calls == alone.upstream.calls > 8  # however many heads
        assert alone.skipped_updates == head.skipped_updates == (1 if task is Poisoned and rate == 1e-3 else 0)
        for (name, wanted), value in zip(alone.state_dict().items(), head.state_dict().values(), strict=True):
            assert torch.equal(wanted, value), name
        found = {name: trainer.callback_metrics[f"{label}/{name}"] for name in metrics}
        assert all(torch.equal(torch.nan_to_num(metrics[name]), torch.nan_to_num(found[name])) for name in metrics)
        groups = [optimizer.param_groups[0]["lr"] for optimizer in (alone.optimizers(False), many.optimizers_of[0])]
        assert task is not Scheduled or rate != rates[0] or groups[0] == groups[1] != rate


def test_an_upstream_that_lets_gradients_through_serves_several_heads(tiny):
    """No gradient asks to pass: audio of a data module needs none, and a network in front of the encoder is refused."""
    trained = []
    for differentiable in (False, True):
        upstream = Fbank(cmvn=False, differentiable=differentiable)
        many = ManyHeads({f"rate-{rate}": KeywordSpotting(upstream, rate) for rate in (1e-2, 1e-3)})
        fit(many, tiny, updates=2)
        trained.append(many.state_dict())
    assert all(torch.equal(value, trained[1][name]) for name, value in trained[0].items())

    class Enhanced(KeywordSpotting):
        def upstream_layers(self, inputs):
            return self.upstream(inputs.audio * self.gain, inputs.lengths)

    with pytest.raises(UserError, match=r"KS: overrides upstream_layers, .* run it alone"):
        ManyHeads({"a": Enhanced(upstream, 0.1), "b": Enhanced(upstream, 0.2)})


def test_what_cannot_be_shared_is_refused(tiny):
    with pytest.raises(UserError, match="QbE: has no head that could share"):
        ManyHeads({"seed-1": QueryByExample(Fbank()), "seed-2": QueryByExample(Fbank())})
    trained: Upstream = Fbank()
    trained.frozen = False
    with pytest.raises(UserError, match=r"model.upstream.frozen: false"):
        ManyHeads({"a": PhonemeRecognition(trained, 0.1), "b": PhonemeRecognition(trained, 0.2)})
    with pytest.raises(ValueError, match="one upstream object"):
        ManyHeads({"a": PhonemeRecognition(Fbank(), 0.1), "b": PhonemeRecognition(Fbank(), 0.2)})
    upstream = Fbank()
    many = ManyHeads({"a": PhonemeRecognition(upstream, 0.1), "b": PhonemeRecognition(upstream, 0.2)})
    for trainer, said in (
        (SimpleNamespace(num_devices=1, num_nodes=2, scaler=None), r"trainer\.devices: 1"),
        (SimpleNamespace(num_devices=1, num_nodes=1, scaler=object()), "16-mixed"),
    ):
        many.trainer = trainer
        with pytest.raises(UserError, match=said):
            many.setup("fit")
