"""MOS: targets, the head and its start, the listeners' loss against loops, selection, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from quiet import quiet_trainer

from wavlm_lightning.callbacks.results import WriteResultCard
from wavlm_lightning.data.batch import Targets, TaskBatch
from wavlm_lightning.data.corpus import Corpus, CorpusWriter, Utterance
from wavlm_lightning.encoder import Layers
from wavlm_lightning.reports.cards import ResultCard
from wavlm_lightning.system.errors import UserError
from wavlm_lightning.tasks import ListenerQualityPrediction, QualityPrediction, TaskData
from wavlm_lightning.upstreams import Fbank

SCALE = {"rating_scale": [1.0, 5.0]}
SMALL = {"hidden": 6, "projection": 5, "listener_dim": 3}


def head() -> QualityPrediction:
    task = QualityPrediction(Fbank(cmvn=False))
    task.build(SCALE)
    return task


def listener_head() -> ListenerQualityPrediction:
    task = ListenerQualityPrediction(Fbank(cmvn=False), **SMALL)
    task.build({**SCALE, "listeners": ["ann", "ben", "cem"]})
    return task.eval()


def batch_of(task, metas) -> TaskBatch:
    targets = Targets.pad([task.read_target(meta) for meta in metas])
    lengths = torch.full((len(metas),), 4)
    return TaskBatch(
        tuple(map(str, range(len(metas)))), Layers(torch.zeros(1, len(metas), 4, 240), lengths, 100.0), targets
    )


def test_targets_hold_system_mean_and_listeners():
    task = listener_head()
    target = task.read_target({"system": "tts-1", "rating": 3.25, "ratings": {"cem": 3, "zoe": 4, "ann": 2}})
    assert target.dtype == torch.int64 and target[1:].tolist() == [[0, 3_250_000], [3, 3_000_000], [1, 2_000_000]]
    same = head().read_target({"system": "tts-1", "rating": 3.25})
    assert torch.equal(same, target[:2]) and same[0, 0] != head().read_target({"system": "tts-2", "rating": 3.25})[0, 0]
    for meta, said in (
        ({"rating": 3.0}, "no `system`"),
        ({"system": "a"}, "rating None, and the corpus' scale is 1 to 5"),
        ({"system": "a", "rating": 0.5}, "rating 0.5"),
        ({"system": "a", "rating": float("nan")}, "rating nan"),
    ):
        with pytest.raises(UserError, match=said):
            head().read_target(meta)
    assert len(task.read_target({"system": "a", "rating": 3.0})) == 2  # the mean listener alone
    with pytest.raises(UserError, match="`ratings` 4; give an object"):
        task.read_target({"system": "a", "rating": 3.0, "ratings": 4})


@pytest.mark.parametrize("make", [head, listener_head])
def test_padding_changes_no_score(make):
    task, features = make(), torch.randn(2, 9, 240)
    both = task.outputs(features, torch.tensor([9, 5]))
    alone = task.outputs(features[1:, :5], torch.tensor([5]))
    assert both.shape == (2, 1) and torch.allclose(both[1], alone[0], atol=1e-6)
    changed = torch.cat([features[1:, :5], torch.full((1, 4, 240), 9.0)], 1)
    assert torch.allclose(task.outputs(changed, torch.tensor([5])), alone, atol=1e-6)


def test_scores_keep_their_digits_in_half_precision():
    task, features = head(), torch.randn(64, 3, 240) * 0.01
    with torch.autocast("cpu", dtype=torch.bfloat16):
        scores = task.outputs(features, torch.full((64,), 3))
    assert scores.dtype == torch.float32 and len(scores.unique()) == 64


def test_the_loss_of_listeners_is_that_of_loops():
    task = listener_head()
    metas = [
        {"system": "a", "rating": 2.0, "ratings": {"ann": 1, "ben": 3}},
        {"system": "b", "rating": 5.0, "ratings": {"cem": 5}},
        {"system": "c", "rating": 3.5, "ratings": {"zoe": 3}},  # not among the listeners of the training
    ]
    targets = Targets.pad([task.read_target(meta) for meta in metas])
    features, lengths = torch.randn(3, 7, 240), torch.tensor([7, 4, 6])
    with torch.no_grad():
        task.regressor.weight.mul_(8)  # scores on both sides of the clip
        found = float(task.listener_loss(features, lengths, targets))
        pairs = [(0, 0, 2.0), (0, 1, 1.0), (0, 2, 3.0), (1, 0, 5.0), (1, 3, 5.0), (2, 0, 3.5)]
        frame_losses, scores, rated, counted = [], [], [], []
        for utterance, listener, score in pairs:
            length = int(lengths[utterance])
            frames = task.frame_scores(
                features[utterance, :length][None], torch.tensor([length]), torch.tensor([listener])
            )
            wanted = (score - 3) / 2
            errors = [float(frame) - wanted for frame in frames[0]]
            counted += [abs(error) > 0.25 for error in errors]
            frame_losses.append(sum(error**2 for error in errors if abs(error) > 0.25) / length)
            scores.append(float(frames.mean()))
            rated.append(wanted)
    contrast = [
        max(0.0, abs((scores[i] - scores[j]) - (rated[i] - rated[j])) - 0.1)
        for i in range(len(pairs))
        for j in range(len(pairs))
    ]
    assert 0 < sum(counted) < len(counted)
    assert found == pytest.approx(np.mean(frame_losses) + 0.5 * np.mean(contrast) / 2, rel=1e-5)


@pytest.mark.parametrize("make", [head, listener_head])
def test_the_loss_of_a_validation_does_not_depend_on_its_batches(make):
    task, scores = make(), torch.tensor([[1.0], [3.2], [4.9], [2.2]])
    metas = [{"system": "a", "rating": rating} for rating in (2.0, 3.0, 3.5, 5.0)]
    targets = [task.read_target(meta) for meta in metas]

    def loss(rows: slice) -> float:
        return float(task.loss(scores[rows], torch.ones(4, dtype=torch.int64)[rows], Targets.pad(targets[rows])))

    assert loss(slice(4)) == pytest.approx((3 * loss(slice(3)) + loss(slice(3, 4))) / 4) and loss(slice(4)) > 0


def test_equal_orders_are_decided_by_the_error():
    task = head()
    batch = batch_of(
        task, [{"system": name, "rating": rating} for name, rating in (("a", 2.0), ("b", 3.0), ("c", 5.0))]
    )
    lengths, found = batch.inputs.lengths, []
    for scores in ([1.0, 1.1, 1.2], [2.0, 3.1, 4.9], [3.1, 2.0, 4.9], [3.0, 3.0, 3.0]):
        metric = task.build_metric()
        task.update_metric(metric, torch.tensor(scores)[:, None], lengths, batch)
        values = task.score(metric, "valid")
        found.append(float(values["srcc_then_mse"]))
        assert all(torch.isfinite(value) for value in values.values())
    assert found[1] > found[0] > found[2] > found[3] and found[1] - found[0] < 1e-6
    assert task.monitor == ("valid/srcc_then_mse", "max") and task.chance == 0.0
    metric = task.build_metric()
    task.update_metric(metric, torch.full((3, 1), float("nan")), lengths, batch)
    with pytest.raises(UserError, match=r"not finite; lower model\.learning_rate"):
        task.score(metric, "valid")


@pytest.mark.parametrize("kind", [QualityPrediction, ListenerQualityPrediction])
def test_a_head_starts_at_the_mean_rating_and_learns(tiny, tmp_path, kind):
    sizes = SMALL if kind is ListenerQualityPrediction else {}
    task = kind(Fbank(cmvn=True), learning_rate=3e-2, **sizes)
    path, best = tiny / "mos", ModelCheckpoint(tmp_path, "best", monitor="valid/srcc_then_mse", mode="max")
    trainer = quiet_trainer(
        max_steps=12, callbacks=[best, WriteResultCard(tmp_path, "wavlm test")], val_check_interval=3
    )
    mean = np.mean([meta["rating"] for meta in Corpus.open(path).split("train").metas()])
    data = TaskData(str(path), batch_size=3)
    trainer.fit(task, data)
    untrained = kind(Fbank(cmvn=True), learning_rate=3e-2, **sizes)
    quiet_trainer(max_steps=0).fit(untrained, data)
    bias = untrained.regressor.bias.item()
    start = 2 * bias + 3 if sizes else bias
    assert start == pytest.approx(mean, abs=1e-4)
    trainer.test(task, data, ckpt_path=best.best_model_path, verbose=False)
    card = ResultCard.read(tmp_path)
    assert card.headline == "system_srcc" and card.metrics["system_srcc"]["chance"] == 0.0
    assert all(np.isfinite(metric["value"]) for metric in card.metrics.values()) and len(card.metrics) == 8
    assert card.details == {"systems": 5, "ratings": 20, "listeners": "simulated; no human rated"}
    assert "a correlation over systems is not a mean over utterances" in card.interval_note
    assert card.selection["metric"] == "valid/srcc_then_mse" and task.readable(torch.tensor([[3.14159]]), None) == [
        {"rating": 3.1416}
    ]


def rated_corpus(folder, systems, ratings) -> str:
    rng = np.random.default_rng(0)
    writer = CorpusWriter(folder, "rated", "CC0", {})
    for split in ("train", "valid", "test"):
        rows = zip(systems, ratings, strict=True)
        writer.write_split(
            split,
            [
                Utterance(
                    f"{split}{n}", rng.uniform(-0.1, 0.1, 4000).astype("f4"), {"system": system, "rating": rating}
                )
                for n, (system, rating) in enumerate(rows)
            ],
        )
    writer.finish({"rating_scale": [1, 5]})
    return str(folder)


@pytest.mark.parametrize(
    ("systems", "ratings", "said"),
    [
        (["one", "one"], [2.0, 3.0], "split valid has ratings of 1 system"),
        (["one", "two"], [3.0, 3.0], "every utterance of split valid has the rating 3,"),
    ],
)
def test_ratings_without_a_correlation_are_refused(tmp_path, systems, ratings, said):
    with pytest.raises(UserError, match=said):
        quiet_trainer(max_steps=1).fit(
            QualityPrediction(Fbank(cmvn=False)), TaskData(rated_corpus(tmp_path, systems, ratings))
        )


@pytest.mark.parametrize("listed", [True, False])
def test_a_listener_head_is_tested_on_a_corpus_with_other_listeners(tiny, tmp_path, listed):
    trained = ListenerQualityPrediction(Fbank(cmvn=False), **SMALL)
    best = ModelCheckpoint(tmp_path, "best", monitor="valid/srcc_then_mse", mode="max")
    trainer = quiet_trainer(max_steps=1, callbacks=[best])
    trainer.fit(trained, TaskData(str(tiny / "mos"), batch_size=9))
    corpus = Corpus.open(tiny / "mos")
    writer = CorpusWriter(tmp_path / "other", "other", "CC0", {})
    for key, waveform, meta in corpus.split("test").utterances():
        others = {**meta, "ratings": {"stranger": 3}} if listed else {k: v for k, v in meta.items() if k != "ratings"}
        writer.write_split("test", [Utterance(key, waveform, others)])
    writer.finish({"rating_scale": [1, 5], "listeners": ["stranger"]} if listed else {"rating_scale": [1, 5]})
    again = ListenerQualityPrediction(Fbank(cmvn=False), **SMALL)
    data = TaskData(str(tmp_path / "other"))
    (other,) = quiet_trainer().test(again, data, ckpt_path=best.best_model_path, verbose=False)
    (own,) = quiet_trainer().test(again, TaskData(str(tiny / "mos")), ckpt_path=best.best_model_path, verbose=False)
    assert other == pytest.approx(own)
