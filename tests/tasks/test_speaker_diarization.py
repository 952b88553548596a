"""SD: frame labels, the permutation-invariant loss, settings and who chooses them, chance on wrong turns."""

from __future__ import annotations

import json
from itertools import permutations

import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from quiet import quiet_trainer
from shaped import Shaped
from torch import nn

from wavlm_lightning.data.batch import Targets, Waveforms
from wavlm_lightning.data.corpus import Corpus
from wavlm_lightning.encoder import Layers
from wavlm_lightning.metrics.diarization import DiarizationErrors, diarization_errors
from wavlm_lightning.metrics.diarization_rate import DiarizationSetting
from wavlm_lightning.system.errors import UserError
from wavlm_lightning.tasks import TaskData
from wavlm_lightning.tasks.speaker.speaker_diarization import SpeakerDiarization
from wavlm_lightning.upstreams import Fbank


def built(head: SpeakerDiarization) -> SpeakerDiarization:
    head.build(head.read_labels(None))
    return head


@pytest.mark.parametrize(("layers", "dim", "count"), [(13, 768, 2_626_575), (25, 1024, 3_150_875), (1, 240, 1_545_218)])
def test_parameter_counts_of_the_protocol(layers, dim, count):  # superb.md, section 1
    head = built(SpeakerDiarization(Shaped(layers, dim)))
    assert sum(p.numel() for p in head.parameters() if p.requires_grad) == count


def test_turns_become_frames():
    head = built(SpeakerDiarization(Shaped(1, 4)))  # 20 ms a frame
    # 0.33 s is frame 16.5, which rounds to the even 16; 0.35 s is 17.5, which rounds to 18.
    turns = [["ben", 0.20, 0.33], ["anna", 0.0, 0.04], ["anna", 0.30, 0.35], ["anna", 0.02, 0.06]]
    target = head.read_target({"turns": turns})
    assert target.shape == (18, 2) and target.dtype == torch.int64
    anna, ben = target.T.tolist()
    assert anna == [1] * 3 + [0] * 12 + [1] * 3
    assert ben == [0] * 10 + [1] * 6 + [0] * 2
    assert head.read_target({"turns": []}).shape == (0, 2)
    with pytest.raises(UserError, match="no turns"):
        head.read_target({"speakers": ["anna"]})
    with pytest.raises(UserError, match=r"3 speakers; set model\.speakers"):
        head.read_target({"turns": [["a", 0, 1], ["b", 0, 1], ["c", 0, 1]]})


def test_a_crop_of_the_labels_lies_under_the_crop_of_the_sound():
    head = built(SpeakerDiarization(Shaped(1, 4)))
    target = torch.arange(200)[:, None].repeat(1, 2)
    assert head.crop_target(target, 3200, 6400)[:, 0].tolist() == list(range(10, 30))
    assert head.crop_target(target, 3200 + 161, 6400)[0, 0] == 11  # the nearer frame
    assert head.crop_target(target, 320 * 190, 6400)[:, 0].tolist() == list(range(190, 200))  # then it is silent
    assert head.crop_target(target, 320 * 300, 6400).shape == (0, 2)


@pytest.mark.parametrize("speakers", [1, 2, 3])
def test_loss_and_accuracy_by_trying_every_order(speakers):
    rng = np.random.default_rng(speakers)
    head = built(SpeakerDiarization(Shaped(1, 4), speakers=speakers))
    for _ in range(5):
        lengths = rng.integers(1, 30, 4)
        outputs = torch.from_numpy(rng.standard_normal((4, int(lengths.max()), speakers)) * 3).float()
        # Labels may end before the sound does, or after.
        labels = [torch.from_numpy(rng.integers(0, 2, (int(n), speakers))) for n in rng.integers(0, 35, 4)]
        loss, right = 0.0, []
        for row, (length, own) in enumerate(zip(lengths, labels, strict=True)):
            whole = torch.zeros(35 + 30, speakers)
            whole[: len(own)] = own
            logits, tried = outputs[row, :length], []
            for order in permutations(range(speakers)):
                wanted = whole[:length, list(order)]
                cost = nn.functional.binary_cross_entropy_with_logits(logits, wanted, reduction="none").mean(1).sum()
                tried.append((float(cost), float(((logits > 0) == (wanted > 0)).float().mean())))
            loss += min(tried)[0]
            right.append(min(tried)[1])
        targets, counts = Targets.pad(labels), torch.from_numpy(lengths)
        assert head.loss(outputs, counts, targets).item() == pytest.approx(loss / lengths.sum(), rel=1e-4)
        assert head.accuracy(outputs, counts, targets).item() == pytest.approx(np.mean(right), rel=1e-5)


def test_padding_changes_no_logit():
    head = built(SpeakerDiarization(Shaped(3, 16), hidden=12))
    torch.manual_seed(0)
    rows = [torch.randn(3, n, 16) for n in (40, 25, 1)]
    padded = torch.full((3, 3, 40, 16), 5.0)
    for place, row in enumerate(rows):
        padded[:, place, : row.shape[1]] = row
    lengths = torch.tensor([40, 25, 1])
    together, _ = head(Layers(padded, lengths, 50.0))
    for place, row in enumerate(rows):
        alone, _ = head(Layers(row[:, None], lengths[place : place + 1], 50.0))
        assert torch.allclose(together[place, : row.shape[1]], alone[0], atol=1e-6)


def test_who_chooses_the_setting():
    turns = [("anna", 0.0, 2.0)]
    loud, soft = torch.zeros(100, 2), torch.zeros(100, 2)
    loud[:, 0], soft[:, 0] = 0.65, 0.35  # found at thresholds up to 0.6, and at 0.3 alone
    loud[50:, 1] = 0.45  # silence: only thresholds from 0.5 on say so
    for protocol, chosen, value in (("superb", DiarizationSetting(0.3, 1), 0.0), ("fixed", None, 1.0)):
        head = built(SpeakerDiarization(Shaped(1, 4), protocol=protocol))
        head.valid_metric.update(loud, turns)
        head.fitted = head.fit_on_validation(head.valid_metric)
        assert head.score(head.valid_metric, "valid")["der"].item() == 0
        head.test_metric.update(soft, turns)
        assert head.score(head.test_metric, "test")["der"].item() == value
        wanted = chosen or DiarizationSetting(0.5, 1)
        assert head.details["setting"] == wanted._asdict()
        assert head.details["setting_chosen_on"] == ("test" if protocol == "superb" else "valid")
        assert [row["der"] for row in head.details["all_settings"]] == [0.0, 1, 1, 1, 1] * 2
        assert head.details["missed"] == value and head.details["confusion"] == head.details["false_alarm"] == 0
        json.dumps(head.details)
    head.fitted = {}  # of a checkpoint that was never validated
    head.score(head.test_metric, "test")
    assert head.details["setting_chosen_on"] == "nothing"


def test_turns_are_read_out_in_order_of_time():
    head = built(SpeakerDiarization(Shaped(1, 4)))
    logits = torch.full((1, 120, 2), -9.0)
    logits[0, 0:40, 1] = logits[0, 30:100, 0] = 9
    logits[0, 105:107, 1] = 9  # shorter than the filter hears
    assert head.readable(logits, torch.tensor([90])) == [{"turns": [["speaker2", 0.0, 0.8], ["speaker1", 0.6, 1.8]]}]
    head.fitted = DiarizationSetting(0.5, 1)._asdict()
    assert head.readable(logits, torch.tensor([120]))[0]["turns"][-1] == ["speaker2", 2.1, 2.14]


def errors_by_hand(head: SpeakerDiarization, corpus: Corpus, split: str) -> DiarizationErrors:
    """Of the turns that the head reads out of whole recordings, one after another."""
    total = DiarizationErrors()
    for _, waveform, meta in corpus.split(split).utterances():
        (row,) = head.readable(*head(Waveforms.pad([waveform])))
        total += diarization_errors(meta["turns"], row["turns"])
    return total


@pytest.mark.parametrize("protocol", ["superb", "fixed"])
def test_training_to_test(tiny, tmp_path, protocol):
    saver = ModelCheckpoint(tmp_path, filename="head", save_top_k=1)
    head = SpeakerDiarization(Fbank(), learning_rate=1e-2, hidden=16, protocol=protocol)
    saver.monitor, saver.mode = head.monitor
    assert saver.monitor == {"superb": "valid/accuracy", "fixed": "valid/der"}[protocol]
    trainer = quiet_trainer(max_steps=12, callbacks=[saver], check_val_every_n_epoch=None, val_check_interval=4)
    source = TaskData(str(tiny / "sd"), batch_size=1, max_seconds=3.0)
    trainer.fit(head, source)
    fresh = SpeakerDiarization(Fbank(), hidden=16, protocol=protocol)
    found = trainer.test(fresh, source, ckpt_path=saver.best_model_path, weights_only=True, verbose=False)[0]
    assert set(found) == {"test/loss", "test/accuracy", "test/der"}
    chosen = DiarizationSetting(**fresh.details["setting"])
    if protocol == "superb":
        assert found["test/der"] == pytest.approx(min(row["der"] for row in fresh.details["all_settings"]))
        fresh.fitted = chosen._asdict()  # else `readable` knows of the usual one only
    else:
        assert fresh.setting == chosen
        assert trainer.validate(fresh, source, verbose=False)[0]["valid/der"] == pytest.approx(
            float(saver.best_model_score)
        )
    by_hand = errors_by_hand(fresh.eval(), Corpus.open(tiny / "sd"), "test")
    assert found["test/der"] == pytest.approx(by_hand.rate, abs=2e-3)  # `readable` rounds to milliseconds
    assert fresh.details["missed"] == pytest.approx(by_hand.missed / by_hand.total, abs=2e-3)


@pytest.mark.slow
def test_wrong_turns_drop_to_chance(tiny, tmp_path, monkeypatch):
    """A head fits turns it has seen; fitted to the turns of other recordings it is no better than a constant answer."""
    corpus = Corpus.open(tiny / "sd")
    metas = [*corpus.split("train").metas(), *corpus.split("test").metas()]
    everything = "train+test"

    def rate() -> float:
        head = SpeakerDiarization(Fbank(), learning_rate=1e-2, hidden=48)
        trainer = quiet_trainer(max_steps=80, limit_val_batches=0)
        source = TaskData(
            str(corpus.directory), batch_size=4, cache=str(tmp_path), train_split=everything, test_split=everything
        )
        trainer.fit(head, source)
        return trainer.test(head, source, verbose=False)[0]["test/der"]

    assert rate() < 0.2
    ends = {meta["text"]: max(end for *_, end in meta["turns"]) for meta in metas}
    constants = []
    for names in ([], ["a"], ["a", "b"]):
        errors = DiarizationErrors()
        for meta in metas:
            errors += diarization_errors(meta["turns"], [(name, 0, ends[meta["text"]]) for name in names])
        constants.append(errors.rate)
    swapped = {meta["text"]: other["turns"] for meta, other in zip(metas, metas[1:] + metas[:1], strict=True)}
    honest = SpeakerDiarization.read_target
    monkeypatch.setattr(
        SpeakerDiarization,
        "read_target",
        # Recordings of the other split are only looked at.
        lambda self, meta: honest(self, {"turns": swapped.get(meta["text"], meta["turns"])}),
    )
    assert rate() > min(constants)


def test_long_recordings_are_heard_in_stretches_without_a_seam(monkeypatch):
    task = SpeakerDiarization(Fbank(), hidden=8)
    task.build_head(12)
    features = torch.randn(2, 50, 12)
    lengths = torch.tensor([50, 31])
    whole = task.outputs(features, lengths)
    monkeypatch.setattr("wavlm_lightning.tasks.speaker.speaker_diarization.STRETCH", 7)
    assert torch.allclose(task.outputs(features, lengths), whole, atol=1e-6)
