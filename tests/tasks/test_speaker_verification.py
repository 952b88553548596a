"""SV: the network at any length, the loss, trials from the corpus, chance on wrong speakers."""

from __future__ import annotations

import json
import math
import random
from itertools import combinations

import pytest
import torch
from quiet import quiet_trainer
from shaped import Shaped
from torch import nn

from wavlm_lightning.data.batch import Waveforms
from wavlm_lightning.data.corpus import Corpus
from wavlm_lightning.encoder import Layers
from wavlm_lightning.metrics.verification import equal_error_rate
from wavlm_lightning.system.errors import UserError
from wavlm_lightning.tasks import TaskData
from wavlm_lightning.tasks.components.xvector import AdditiveMarginSoftmax, statistics_pooling
from wavlm_lightning.tasks.speaker.speaker_verification import SpeakerVerification
from wavlm_lightning.upstreams import Fbank

SMALL = {"hidden": 24, "widths": (24, 24, 24, 24, 40), "embedding": 24}


@pytest.mark.parametrize(("layers", "dim", "count"), [(13, 768, 6_730_217), (25, 1024, 6_861_301), (1, 240, 6_459_868)])
def test_parameter_counts_of_the_protocol(layers, dim, count):  # superb.md, section 1
    head = SpeakerVerification(Shaped(layers, dim))
    head.build([str(number) for number in range(1211)])
    assert sum(p.numel() for p in head.parameters() if p.requires_grad) == count


def small_head(**settings) -> SpeakerVerification:
    head = SpeakerVerification(Shaped(2, 16), **{**SMALL, **settings})
    head.build(list("ABC"))
    return head


def test_padding_changes_no_embedding_however_short_the_utterance():
    head = small_head()
    torch.manual_seed(0)
    rows = [torch.randn(2, n, 16) for n in (60, 33, 16, 15, 14, 1)]
    padded = torch.full((2, len(rows), 60, 16), 7.0)
    for place, row in enumerate(rows):
        padded[:, place, : row.shape[1]] = row
    lengths = torch.tensor([row.shape[1] for row in rows])
    together, _ = head(Layers(padded, lengths, 50.0))
    for place, row in enumerate(rows):
        alone, _ = head(Layers(row[:, None], lengths[place : place + 1], 50.0))
        assert torch.allclose(together[place], alone[0], atol=1e-6)
    repeated = rows[-1].expand(2, 15, 16)
    assert torch.allclose(head(Layers(repeated[:, None], torch.tensor([15]), 50.0))[0][0], together[-1], atol=1e-6)


def test_statistics_are_those_of_torch_over_the_valid_frames():
    torch.manual_seed(1)
    frames, lengths = torch.randn(4, 30, 5).relu(), torch.tensor([30, 17, 2, 1])
    frames[:, :, 0] = 0  # a unit that never fires
    frames.requires_grad_()
    pooled = statistics_pooling(frames, lengths)
    for row, length in enumerate(lengths.tolist()):
        valid = frames[row, :length]
        deviation = valid.std(0) if length > 1 else torch.zeros(5)
        assert torch.allclose(pooled[row], torch.cat([valid.mean(0), deviation]), atol=1e-6)
    pooled.sum().backward()
    assert frames.grad.isfinite().all()


def test_additive_margin_softmax_as_it_is_defined():
    torch.manual_seed(2)
    objective = AdditiveMarginSoftmax(6, 4)
    vectors, classes = torch.randn(5, 6), torch.tensor([0, 3, 1, 1, 2])
    weight = objective.weight.detach().T
    cosines = nn.functional.cosine_similarity(vectors[:, None], weight[None], dim=2).double()
    total = 0.0
    for row, own in enumerate(classes.tolist()):
        target = math.exp(30 * (cosines[row, own] - 0.4))
        others = sum(math.exp(30 * cosines[row, other]) for other in range(4) if other != own)
        total -= math.log(target / (target + others))
    assert objective(vectors, classes).item() == pytest.approx(total / 5, rel=1e-5)
    objective.scale = 1e4  # the exponentials themselves would overflow
    assert objective(vectors, classes).isfinite()


def test_adamw_decays_the_layer_weights_too():
    head = small_head(learning_rate=1e-3)
    optimizer = head.configure_optimizers()
    assert isinstance(optimizer, torch.optim.AdamW)
    (group,) = optimizer.param_groups
    assert group["weight_decay"] == 0.01 and any(p is head.weighted_sum.logits for p in group["params"])


def test_speakers_are_those_of_train(tiny):
    corpus = Corpus.open(tiny / "sv")
    assert small_head().read_labels(corpus) == corpus.inventories["speakers"]["train"]
    flat = Corpus(corpus.directory, {**corpus.body, "inventories": {"speakers": ["x", "y"]}})
    assert small_head().read_labels(flat) == ["x", "y"]
    without = Corpus(corpus.directory, {**corpus.body, "inventories": {"speakers": {"test": ["x"]}}})
    with pytest.raises(UserError, match="no speakers of split 'train'"):
        small_head().read_labels(without)
    with pytest.raises(UserError, match="no speaker; use"):
        small_head().read_target({"text": "hello"})


def fit(task, corpus, steps, **data):
    trainer = quiet_trainer(max_steps=steps, limit_val_batches=0)
    source = TaskData(str(corpus), batch_size=12, **data)
    trainer.fit(task, source)
    return trainer, source


def test_trials_of_the_right_split_are_scored(tiny):
    head = SpeakerVerification(Fbank(cmvn=False), learning_rate=1e-3, **SMALL)
    trainer = quiet_trainer(max_steps=2)
    source = TaskData(str(tiny / "sv"), batch_size=4, max_seconds=1.5)
    trainer.fit(head, source)
    assert source.opened["valid"].name == "test"  # the published checkpoints are chosen so
    chosen = float(trainer.callback_metrics["valid/eer"])
    found = trainer.test(head, source, verbose=False)[0]
    assert found["test/eer"] == pytest.approx(chosen)

    corpus = Corpus.open(tiny / "sv")
    vectors = {}
    for key, waveform, _ in corpus.split("test").utterances():
        (row,) = head.readable(*head(Waveforms.pad([waveform])))
        vectors[key] = torch.tensor(row["embedding"])
        assert vectors[key].norm().item() == pytest.approx(1, abs=1e-4)
    trials = corpus.trials("test")
    scores = [float(vectors[a] @ vectors[b]) for _, a, b in trials]
    rate, threshold = equal_error_rate(scores, [same for same, *_ in trials])
    assert found["test/eer"] == pytest.approx(rate, abs=1e-6)
    assert head.details["threshold"] == pytest.approx(threshold, abs=1e-4)
    assert head.details["trials"] == len(trials)
    json.dumps(head.details)

    honest = SpeakerVerification(Fbank(cmvn=False), protocol="fixed", **SMALL)
    trainer.validate(honest, source, verbose=False)
    assert source.opened["valid"].name == "valid"


def test_what_cannot_be_scored_is_said(tiny, monkeypatch):
    head = SpeakerVerification(Fbank(cmvn=False), **SMALL)
    source = TaskData(str(tiny / "sv"), batch_size=4, eval_batch_seconds=0.1)
    with pytest.warns(UserWarning, match="too few utterances"):
        values = quiet_trainer(limit_test_batches=1).test(head, source, verbose=False)
    assert math.isnan(values[0]["test/eer"])
    trials = Corpus.open(tiny / "sv").trials("test")
    monkeypatch.setattr(Corpus, "trials", lambda self, split: [*trials, (1, trials[0][1], "nobody")])
    with pytest.raises(UserError, match="name 'nobody', which is not in the split"):
        quiet_trainer().test(head, source, verbose=False)
    monkeypatch.setattr(Corpus, "trials", lambda self, split: [row for row in trials if row[0] == 1])
    with pytest.raises(UserError, match="must include pairs of one speaker and pairs of two"):
        quiet_trainer().test(head, source, verbose=False)


def test_a_training_speaker_who_is_no_class_is_refused(tiny, monkeypatch):
    monkeypatch.setattr(SpeakerVerification, "read_labels", lambda self, corpus: ["sv-train000", "another"])
    with pytest.raises(UserError, match="'sv-train001' of split 'train'"):
        fit(SpeakerVerification(Fbank(cmvn=False), **SMALL), tiny / "sv", 1)


@pytest.mark.slow
def test_wrong_speakers_drop_to_chance(tiny, tmp_path, monkeypatch):
    """A head that has learnt the test's speakers tells them apart; one that has learnt a permutation does not."""
    corpus = Corpus.open(tiny / "sv")
    split = corpus.split("test")
    speaker_of = {key: meta["speaker"] for key, meta in zip(split.keys, split.metas(), strict=True)}
    pairs = [(int(speaker_of[a] == speaker_of[b]), a, b) for a, b in combinations(split.keys, 2)]
    monkeypatch.setattr(Corpus, "trials", lambda self, name: pairs)
    monkeypatch.setattr(SpeakerVerification, "read_labels", lambda self, corpus: sorted(set(speaker_of.values())))

    def error() -> float:
        head = SpeakerVerification(Fbank(cmvn=True), learning_rate=3e-3, **SMALL)
        trainer, source = fit(head, tiny / "sv", 60, train_split="test", cache=str(tmp_path))
        return trainer.test(head, source, verbose=False)[0]["test/eer"]

    assert error() < 0.1
    texts = [meta["text"] for meta in split.metas()]
    speakers = list(speaker_of.values())
    random.Random(0).shuffle(speakers)
    wrong = dict(zip(texts, speakers, strict=True))
    honest = SpeakerVerification.read_target
    monkeypatch.setattr(
        SpeakerVerification, "read_target", lambda self, meta: honest(self, {"speaker": wrong[meta["text"]]})
    )
    assert 0.3 < error() < 0.7
