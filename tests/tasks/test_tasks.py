"""Heads as SUPERB defines them, learning where there is something to learn, chance where there is not."""

from __future__ import annotations

import random

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from quiet import quiet_trainer
from shaped import Shaped
from torch import nn

from wavlm_lightning.data.batch import Targets, TaskBatch
from wavlm_lightning.data.corpus import Corpus
from wavlm_lightning.encoder import Layers
from wavlm_lightning.system.errors import UserError
from wavlm_lightning.tasks import KeywordSpotting, PhonemeRecognition, SpeakerIdentification, TaskData
from wavlm_lightning.upstreams import Fbank, WavLMUpstream


@pytest.mark.parametrize(
    ("task", "classes", "base", "large", "fbank"),
    [  # superb.md, section 1: trainable parameters with the layer weights
        (PhonemeRecognition, 74, 215_895, 281_443, 80_714),
        (KeywordSpotting, 12, 199_961, 265_509, 64_780),
        (SpeakerIdentification, 1251, 518_384, 583_932, 383_203),
    ],
)
def test_parameter_counts_of_the_protocol(task, classes, base, large, fbank):
    for (layers, dim), wanted in {(13, 768): base, (25, 1024): large, (1, 240): fbank}.items():
        head = task(Shaped(layers, dim))
        head.build([str(i) for i in range(classes)])
        assert sum(p.numel() for p in head.parameters() if p.requires_grad) == wanted


@pytest.mark.parametrize("task", [KeywordSpotting, PhonemeRecognition])
def test_padding_changes_neither_logits_nor_gradient(task):
    head = task(Shaped(3, 16))
    head.build(["<pad>", "<eos>", "<unk>", "A", "B"])
    torch.manual_seed(0)
    rows = [torch.randn(3, n, 16) for n in (40, 25, 9)]
    padded = torch.zeros(3, 3, 40, 16)
    for place, row in enumerate(rows):
        padded[:, place, : row.shape[1]] = row
    lengths = torch.tensor([40, 25, 9])
    together, _ = head(Layers(padded, lengths, 50.0))
    for place, row in enumerate(rows):
        alone, _ = head(Layers(row[:, None], lengths[place : place + 1], 50.0))
        part = together[place] if task is KeywordSpotting else together[place, : row.shape[1]]
        assert torch.allclose(part, alone[0], atol=1e-5)


def test_phones_are_decoded_and_scored():
    head = PhonemeRecognition(Shaped(1, 4))
    head.build(["<pad>", "<eos>", "<unk>", "AA", "B", "K"])
    best = torch.tensor([[3, 3, 0, 3, 4, 4, 1, 5], [5, 0, 0, 4, 0, 3, 3, 3]])
    outputs = nn.functional.one_hot(best, 6).float()
    lengths = torch.tensor([8, 4])
    assert head.decode(outputs, lengths) == ["AA AA B K", "K B"]
    metric = head.build_metric()
    targets = Targets.pad([torch.tensor([3, 3, 4, 1]), torch.tensor([5, 3, 4, 5, 1])])
    head.update_metric(metric, outputs, lengths, TaskBatch(("a", "b"), Layers(outputs, lengths, 50.0), targets))
    assert metric.compute().item() == pytest.approx((1 + 2) / (3 + 4))  # one phone too many; two missing


def test_ctc_by_hand():
    """CTC of a two-frame, one-label example, summed over its three paths by hand."""
    head = PhonemeRecognition(Shaped(1, 4))
    head.build(["<pad>", "<eos>", "<unk>", "AA"])
    logits = torch.randn(1, 2, 4)
    p = logits.softmax(-1)[0]
    paths = p[0, 3] * p[1, 3] + p[0, 0] * p[1, 3] + p[0, 3] * p[1, 0]
    loss = head.loss(logits, torch.tensor([2]), Targets(torch.tensor([[3]]), torch.tensor([1])))
    assert loss.item() == pytest.approx(-paths.log().item(), rel=1e-5)


def train(task, corpus, tmp_path, steps: int, **data):
    trainer = quiet_trainer(max_steps=steps, limit_val_batches=0)
    source = TaskData(str(corpus), batch_size=16, cache=str(tmp_path / "cache"), **data)
    trainer.fit(task, source)
    return trainer, source


TASKS = [
    (KeywordSpotting, "ks", 1e-2, 300),
    (SpeakerIdentification, "sid", 1e-2, 300),
    (PhonemeRecognition, "pr", 1e-2, 150),
]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("task", "name", "rate", "steps"),
    [pytest.param(*each, marks=pytest.mark.long if each[0] is SpeakerIdentification else ()) for each in TASKS],
)
def test_permuted_labels_drop_to_chance(tiny, tmp_path, monkeypatch, task, name, rate, steps):
    """With true labels the head fits what it has seen; with permuted ones, what it learnt is of no use on the others."""
    corpus = Corpus.open(tiny / name)
    keys = [key for split in corpus.splits for key in corpus.split(split).keys]
    metas = {
        key: meta
        for split in corpus.splits
        for key, meta in zip(corpus.split(split).keys, corpus.split(split).metas(), strict=True)
    }
    shuffled = keys.copy()
    random.Random(0).shuffle(shuffled)
    swap = {str(sorted(metas[a].items())): metas[b] for a, b in zip(keys, shuffled, strict=True)}

    head = task(Fbank(cmvn=name == "pr"), learning_rate=rate)
    trainer, source = train(head, tiny / name, tmp_path, steps, test_split="train")
    true = trainer.test(head, source, verbose=False)[0][f"test/{head.metric}"]

    honest = task.read_target
    monkeypatch.setattr(task, "read_target", lambda self, meta: honest(self, swap[str(sorted(meta.items()))]))
    head = task(Fbank(cmvn=name == "pr"), learning_rate=rate)
    trainer, source = train(head, tiny / name, tmp_path, steps)
    permuted = trainer.test(head, source, verbose=False)[0][f"test/{head.metric}"]
    if name == "pr":
        assert true < 0.6 and permuted > 0.7
    else:
        chance = 1 / len(head.labels)
        count = len(corpus.split("test"))
        assert true > 0.7
        assert permuted <= chance + 3 * (chance * (1 - chance) / count) ** 0.5


def test_head_checkpoint_is_small_and_belongs_to_its_upstream(tiny, tmp_path):
    head = KeywordSpotting(WavLMUpstream("tiny"), learning_rate=1e-2)
    trainer, source = train(head, tiny / "ks", tmp_path, 20)
    path = tmp_path / "head.ckpt"
    trainer.save_checkpoint(path)
    state = torch.load(path, weights_only=True)["state_dict"]
    assert state and not any(name.startswith("upstream.") for name in state)
    before = trainer.test(head, source, verbose=False)[0]

    fresh = KeywordSpotting(WavLMUpstream("tiny"))
    assert trainer.test(fresh, source, ckpt_path=path, weights_only=True, verbose=False)[0] == before
    assert fresh.trained["learning_rate"] == 1e-2 and fresh.trained["best_step"] == 20
    loaded = KeywordSpotting.load_from_checkpoint(path, upstream=WavLMUpstream("tiny"), weights_only=True)
    assert torch.equal(loaded.classifier.weight, head.classifier.weight)

    with pytest.raises(UserError, match="trained on another upstream"):
        trainer.test(KeywordSpotting(WavLMUpstream("tiny", seed=1)), source, ckpt_path=path, weights_only=True)
    with pytest.raises(UserError, match="a head for KS, not for SID"):
        other = TaskData(str(tiny / "sid"), batch_size=8)
        trainer.test(SpeakerIdentification(WavLMUpstream("tiny")), other, ckpt_path=path, weights_only=True)


def test_a_checkpoint_that_lacks_a_head_parameter_is_refused(tiny, tmp_path):
    head = KeywordSpotting(WavLMUpstream("tiny"))
    trainer, source = train(head, tiny / "ks", tmp_path, 1)
    trainer.save_checkpoint(tmp_path / "head.ckpt")
    content = torch.load(tmp_path / "head.ckpt", weights_only=True)
    del content["state_dict"]["classifier.bias"]
    torch.save(content, tmp_path / "broken.ckpt")
    with pytest.raises(UserError, match=r"classifier\.bias"):
        trainer.test(
            KeywordSpotting(WavLMUpstream("tiny")), source, ckpt_path=tmp_path / "broken.ckpt", weights_only=True
        )


class Losses(pl.Callback):
    def __init__(self) -> None:
        self.values: list[float] = []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        self.values.append(float(outputs["loss"]))


def test_resume_in_the_middle_of_an_epoch_is_exact(tiny, tmp_path):
    def fit(steps: int, ckpt_path=None):
        losses = Losses()
        saver = ModelCheckpoint(tmp_path, filename="{step}", every_n_train_steps=1, save_top_k=-1)
        trainer = quiet_trainer(max_steps=steps, limit_val_batches=0, callbacks=[losses, saver])
        head = KeywordSpotting(Fbank(cmvn=False), learning_rate=1e-3)
        trainer.fit(
            head, TaskData(str(tiny / "ks"), batch_size=5, balance="keyword"), ckpt_path=ckpt_path, weights_only=True
        )
        return losses.values, head

    whole, head = fit(12)
    for step in (3, 5, 7):  # five batches an epoch
        rest, resumed = fit(12, tmp_path / f"step={step}.ckpt")
        assert rest == whole[step:]
        assert torch.equal(resumed.classifier.weight, head.classifier.weight)


def test_upstream_that_is_trained_changes_and_is_kept(tiny, tmp_path):
    head = KeywordSpotting(WavLMUpstream("tiny", frozen=False), learning_rate=1e-3)
    before = head.upstream.encoder.feature_projection.projection.weight.clone()
    trainer = quiet_trainer(max_steps=2, limit_val_batches=0)
    trainer.fit(head, TaskData(str(tiny / "ks"), batch_size=4))
    assert not torch.equal(before, head.upstream.encoder.feature_projection.projection.weight)
    trainer.save_checkpoint(tmp_path / "all.ckpt")
    state = torch.load(tmp_path / "all.ckpt", weights_only=True)["state_dict"]
    assert any(name.startswith("upstream.") for name in state)


def test_corpus_without_the_labels_is_refused(tiny):
    trainer = quiet_trainer(max_steps=1)
    with pytest.raises(UserError, match="no 'keywords' labels"):
        trainer.fit(KeywordSpotting(Fbank(cmvn=False)), TaskData(str(tiny / "pr"), batch_size=4))


def test_an_update_whose_gradient_is_not_finite_is_left_out(tiny):
    """As in s3prl: one such update would spoil everything after it."""

    class Broken(KeywordSpotting):
        def loss(self, outputs, lengths, targets):
            loss = super().loss(outputs, lengths, targets)
            return loss * float("nan") if self.global_step == 1 and self.skipped_updates == 0 else loss

    head = Broken(Fbank(cmvn=False), learning_rate=1e-2)
    trainer = quiet_trainer(max_steps=4, limit_val_batches=0, gradient_clip_val=1.0)
    trainer.fit(head, TaskData(str(tiny / "ks"), batch_size=5))
    assert head.skipped_updates == 1
    assert all(parameter.isfinite().all() for parameter in head.parameters())


def test_a_head_is_tested_by_the_protocol_it_was_trained_by(tiny, tmp_path):
    trainer, source = train(KeywordSpotting(Fbank(cmvn=False), protocol="fixed"), tiny / "ks", tmp_path, 1)
    trainer.save_checkpoint(tmp_path / "head.ckpt")
    with pytest.raises(UserError, match="trained with protocol: fixed"):
        trainer.test(KeywordSpotting(Fbank(cmvn=False)), source, ckpt_path=tmp_path / "head.ckpt", weights_only=True)


def test_crops_in_frames_follow_the_upstreams_rate(tiny):
    for upstream, samples in ((Fbank(cmvn=False), 4800), (WavLMUpstream("tiny"), 9600)):
        head = KeywordSpotting(upstream, protocol="fixed")
        source = TaskData(str(tiny / "ks"), batch_size=4, max_frames=30)
        trainer = quiet_trainer(max_steps=1, limit_val_batches=0)
        trainer.fit(head, source)
        assert {batch.inputs.audio.shape[1] for batch in source.train_dataloader()} == {samples}
    with pytest.raises(UserError, match="give one of them"):
        TaskData(str(tiny / "ks"), max_frames=30, max_seconds=1.0)
