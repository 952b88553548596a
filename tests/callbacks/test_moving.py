"""A number of the task that moves over the updates."""

from __future__ import annotations

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from quiet import quiet_trainer

from wavlm_lightning.callbacks import MoveValue
from wavlm_lightning.system.errors import UserError
from wavlm_lightning.tasks import (
    AttentionRecognition,
    ContentConversion,
    EcapaVerification,
    KeywordSpotting,
    SpeakerVerification,
    SpeechRecognition,
    TaskData,
)
from wavlm_lightning.tasks.joint.many_heads import ManyHeads
from wavlm_lightning.upstreams import Fbank, WavLMUpstream


class Weighted(KeywordSpotting):
    """Its loss has a weight, which it remembers."""

    def __init__(self, *arguments, **settings) -> None:
        super().__init__(*arguments, **settings)
        self.weight, self.seen = 1.0, []
        self.whether = True

    def loss(self, outputs, lengths, targets):
        if self.training:
            self.seen.append(self.weight)
        return self.weight * super().loss(outputs, lengths, targets)


def fit(task, corpus, updates, move, ckpt_path=None, callbacks=(), **settings):
    trainer = quiet_trainer(max_steps=updates, limit_val_batches=0, callbacks=[move, *callbacks], **settings)
    trainer.fit(task, TaskData(str(corpus), batch_size=4), ckpt_path=ckpt_path, weights_only=True)
    return trainer


def test_the_value_follows_the_updates_and_is_logged(tiny):
    task = Weighted(Fbank())
    move = MoveValue("weight", 0.0, 1.0, from_update=1, to_update=3)
    trainer = fit(task, tiny / "ks", 5, move, accumulate_grad_batches=2, log_every_n_steps=1)
    assert task.seen == [0, 0, 0, 0, 0.5, 0.5, 1, 1, 1, 1]  # two batches an update
    assert trainer.callback_metrics["train/weight"] == 1


def test_the_margin_of_speaker_verification_reaches_the_loss(tiny):
    def trained(*moves):
        task = SpeakerVerification(Fbank(), 1e-2, hidden=8, widths=[8] * 5, embedding=8, protocol="fixed", margin=0.2)
        trainer = quiet_trainer(max_steps=2, limit_val_batches=0, callbacks=list(moves))
        trainer.fit(task, TaskData(str(tiny / "sv"), batch_size=4))
        return task

    plain, both = trained(), trained(MoveValue("margin", 0.2, 0.2, 1))
    assert all(torch.equal(one, other) for one, other in zip(plain.parameters(), both.parameters(), strict=True))
    for name in ("margin", "objective.margin"):  # two names of one number
        moved = trained(MoveValue(name, 0.0, 0.4, 1))
        assert moved.margin == moved.objective.margin == 0.4
        assert not torch.equal(plain.objective.weight, moved.objective.weight)


def test_a_resumed_run_goes_on_exactly(tiny, tmp_path):
    def move():
        return MoveValue("weight", 1.0, 3.0, 4)

    def saver():
        return ModelCheckpoint(tmp_path, filename="last", every_n_train_steps=1, enable_version_counter=False)

    whole, part, rest = (Weighted(Fbank(), 1e-2) for _ in range(3))
    fit(whole, tiny / "ks", 5, move())
    fit(part, tiny / "ks", 2, move(), callbacks=[saver()])
    fit(rest, tiny / "ks", 5, move(), tmp_path / "last.ckpt", [saver()])
    assert part.seen + rest.seen == whole.seen == [1, 1.5, 2, 2.5, 3]
    assert all(torch.equal(one, other) for one, other in zip(whole.parameters(), rest.parameters(), strict=True))


def test_each_of_several_heads_moves(tiny):
    upstream = Fbank()
    heads = {"a": Weighted(upstream, 1e-2), "b": Weighted(upstream, 1e-3)}
    trainer = fit(ManyHeads(heads), tiny / "ks", 3, MoveValue("weight", 0.0, 1.0, 2))
    assert [head.seen for head in heads.values()] == [[0, 0.5, 1]] * 2
    assert trainer.callback_metrics["a/train/weight"] == 1


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("wieght", "wieght of Weighted is missing, not a number"),
        ("classifier.nothing", "is missing"),
        ("nothing.at.all", "is missing"),
        ("whether", "whether of Weighted is bool, not a number"),
        ("classifier.weight", "is Parameter, not a number"),
        ("learning_rate", "learning_rate cannot move: .* learning-rate schedule"),
        ("seed", "seed cannot move"),
    ],
)
def test_what_cannot_move_is_refused(tiny, name, said):
    with pytest.raises(UserError, match=said):
        fit(Weighted(Fbank()), tiny / "ks", 1, MoveValue(name, 0.0, 1.0, 2))


@pytest.mark.parametrize(
    ("task", "copied", "read"),
    [
        (SpeakerVerification, "scale", "objective.scale"),
        (EcapaVerification, "penalty", "objective.penalty"),
        (EcapaVerification, "scale", "margin"),
        (SpeechRecognition, "dropout", None),
        (AttentionRecognition, "smoothing", None),
        (ContentConversion, "hidden", "content_weight"),
    ],
)
def test_a_number_that_was_copied_when_the_head_was_built_cannot_move(task, copied, read):
    head = task(WavLMUpstream("tiny"), learning_rate=1e-3)
    if read:
        head.labels = ["a", "b"]
        head.build_head(head.upstream.dim)
        MoveValue(read, 0.0, 1.0, 2).on_fit_start(None, head)
    with pytest.raises(UserError, match=f"{copied} cannot move: {task.__name__} reads it only when it is built"):
        MoveValue(copied, 0.0, 1.0, 2).on_fit_start(None, head)


@pytest.mark.parametrize("updates", [(3, 3), (-1, 2)])
def test_updates_must_be_in_order(updates):
    with pytest.raises(UserError, match="MoveValue margin: to_update"):
        MoveValue("margin", 0.0, 1.0, from_update=updates[0], to_update=updates[1])
