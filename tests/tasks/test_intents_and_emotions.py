"""IC's three answers in one, and ER's folds."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from quiet import quiet_trainer
from torch import nn

from wavlm_lightning.data.batch import Targets, TaskBatch
from wavlm_lightning.data.corpus import Corpus
from wavlm_lightning.encoder import Layers
from wavlm_lightning.system.errors import UserError
from wavlm_lightning.tasks import EmotionRecognition, FoldData, IntentClassification, TaskData
from wavlm_lightning.tasks.scored_utterances import ScoredUtterances
from wavlm_lightning.upstreams import Fbank

LABELS = {"action": list("abcdef"), "object": [str(i) for i in range(14)], "location": list("wxyz")}


def intent_head() -> IntentClassification:
    head = IntentClassification(Fbank(cmvn=False))
    head.build(LABELS)
    return head


def test_parameter_counts_of_the_protocol():
    wanted = {"IC": 67_864, "ER": 62_724}  # superb.md, section 1, FBANK
    emotion = EmotionRecognition(Fbank(cmvn=False))
    emotion.build(["neutral", "happy", "angry", "sad"])
    for head in (intent_head(), emotion):
        assert sum(p.numel() for p in head.parameters() if p.requires_grad) == wanted[head.name]


def test_an_intent_is_right_if_all_three_slots_are():
    head, metric = intent_head(), intent_head().build_metric()
    meta = [{"intent": {"action": "c", "object": "7", "location": "z"}} for _ in range(4)]
    targets = Targets.pad([head.read_target(m) for m in meta])
    logits = torch.zeros(4, 24)
    logits[:, [2, 6 + 7, 20 + 3]] = 5.0
    logits[1, 20] = 9.0  # one slot wrong
    logits[2, [0, 6]] = 9.0  # two slots wrong
    lengths = torch.full((4,), 10)
    batch = TaskBatch(("a", "b", "c", "d"), Layers(torch.zeros(1, 4, 10, 240), lengths, 100.0), targets)
    head.update_metric(metric, logits, lengths, batch)
    assert metric.compute().item() == 0.5
    assert head.readable(logits, lengths)[0]["intent"] == meta[0]["intent"]
    by_hand = sum(
        nn.functional.cross_entropy(logits[:, begin:end], targets.values[:, slot])
        for slot, (begin, end) in enumerate([(0, 6), (6, 20), (20, 24)])
    )
    assert head.loss(logits, lengths, targets).item() == pytest.approx(float(by_hand))
    assert head.chance == pytest.approx(1 / (6 * 14 * 4))
    with pytest.raises(UserError, match="location 'moon'"):
        head.read_target({"intent": {"action": "a", "object": "0", "location": "moon"}})


def test_intents_are_learnt(tiny, tmp_path):
    head = IntentClassification(Fbank(cmvn=False), learning_rate=1e-2)
    trainer = quiet_trainer(max_steps=300, limit_val_batches=0)
    data = TaskData(str(tiny / "ic"), batch_size=10, cache=str(tmp_path / "cache"), test_split="train")
    trainer.fit(head, data)
    assert trainer.test(head, data, verbose=False)[0]["test/accuracy"] > 0.7


def test_emotions_have_weighted_and_unweighted_accuracy():
    head = EmotionRecognition(Fbank(cmvn=False))
    head.build(["neutral", "happy", "angry", "sad"])
    classes, guesses = [0, 0, 0, 0, 1, 2], [0, 0, 0, 1, 1, 0]
    logits, lengths = nn.functional.one_hot(torch.tensor(guesses), 4).float(), torch.full((6,), 10)
    targets = Targets.pad([torch.tensor(each) for each in classes])
    batch = TaskBatch(tuple("abcdef"), Layers(torch.zeros(1, 6, 10, 240), lengths, 100.0), targets)
    metric = head.build_metric()
    head.update_metric(metric, logits, lengths, batch)
    values = {name: float(value) for name, value in head.score(metric, "test").items()}
    assert values == pytest.approx({"accuracy": 4 / 6, "unweighted_accuracy": (3 / 4 + 1 + 0) / 3})
    scored = ScoredUtterances()
    scored.add(head, logits, lengths, batch)
    assert [row[0] for row in scored.rows.values()] == [1.0, 1.0, 1.0, 0.0, 1.0, 0.0] and not scored.missing


def opened(tiny, protocol, fold):
    data = FoldData(str(tiny / "er"), fold=fold)
    trainer = quiet_trainer(max_steps=1, limit_val_batches=0)
    trainer.fit(EmotionRecognition(Fbank(cmvn=False), protocol=protocol), data)
    return data, {**data.opened, **data.open_stage(("test",))}


@pytest.mark.parametrize("fold", [1, 5])
@pytest.mark.parametrize("protocol", ["superb", "fixed"])
def test_a_fold_is_tested_on_and_never_seen(tiny, protocol, fold):
    data, splits = opened(tiny, protocol, fold)
    keys = {name: set(split.keys) for name, split in splits.items()}
    corpus = Corpus.open(tiny / "er")
    assert keys["test"] == set(corpus.split(f"fold{fold}").keys)
    assert not (keys["train"] & keys["valid"] or keys["train"] & keys["test"] or keys["valid"] & keys["test"])
    speakers = {name: {meta["speaker"] for meta in split.metas()} for name, split in splits.items()}
    total = sum(len(corpus.split(name)) for name in corpus.splits)
    if protocol == "superb":
        pool = total - len(keys["test"])
        assert len(keys["train"]) == int(0.8 * pool) and speakers["train"] & speakers["valid"]
        torch.manual_seed(0)
        chosen, _ = torch.utils.data.random_split(range(pool), [int(0.8 * pool), pool - int(0.8 * pool)])
        assert np.array_equal(splits["train"].numbers, sorted(chosen))
    else:
        assert len(keys["train"]) + len(keys["valid"]) + len(keys["test"]) == total
        assert not speakers["train"] & speakers["valid"]
    assert data.layout()["fold"] == fold


def test_splits_that_are_no_folds(tiny):
    with pytest.raises(UserError, match=r"its splits train, valid, test are no folds.*; use TaskData"):
        quiet_trainer(max_steps=1).fit(EmotionRecognition(Fbank(cmvn=False)), FoldData(str(tiny / "ks")))


def test_a_run_is_scored_on_its_own_fold(tiny, tmp_path):
    head, data = EmotionRecognition(Fbank(cmvn=False)), FoldData(str(tiny / "er"))
    trainer = quiet_trainer(max_steps=1, limit_val_batches=0)
    trainer.fit(head, data)
    trainer.save_checkpoint(tmp_path / "one.ckpt")
    settings = {"ckpt_path": tmp_path / "one.ckpt", "weights_only": True}
    fresh, other = EmotionRecognition(Fbank(cmvn=False)), FoldData(str(tiny / "er"), fold=2)
    for judge in ("test", "validate"):
        with pytest.raises(UserError, match=r"data\.fold=2: the run left fold 1 out .* set data\.fold: 1"):
            getattr(quiet_trainer(), judge)(fresh, other, verbose=False, **settings)
    quiet_trainer().test(fresh, data, verbose=False, **settings)
    quiet_trainer().predict(fresh, other, **settings)  # no figure


def test_a_fold_that_is_not_there(tiny):
    with pytest.raises(UserError, match=r"data\.fold=6"):
        opened(tiny, "superb", 6)
