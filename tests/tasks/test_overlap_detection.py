"""OSD: targets, soft targets, a head that knows the truth, what validation fits and the checkpoint keeps."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from quiet import quiet_trainer
from shaped import Shaped
from sklearn.metrics import average_precision_score

from wavlm_lightning.data.batch import Targets
from wavlm_lightning.metrics.detection import EVENTS, SETTINGS, DetectionSetting
from wavlm_lightning.system.errors import UserError
from wavlm_lightning.tasks import OverlapDetection, TaskData
from wavlm_lightning.tasks.speaker.personal_activity import THREE, FrameAveragePrecision
from wavlm_lightning.upstreams import Fbank


def built(**settings) -> OverlapDetection:
    head = OverlapDetection(Shaped(1, 4), **{"hidden": 4, **settings})
    head.build(head.read_labels(None))
    return head.eval()


def test_a_frame_has_the_class_at_its_middle():
    rng, head = np.random.default_rng(0), built()
    for speakers in (1, 2, 3):
        turns = []
        for _ in range(6):
            start = round(rng.uniform(0, 2), 3)
            turns.append([f"s{rng.integers(speakers)}", start, round(start + rng.uniform(0, 0.8), 3)])
        target = head.read_target({"turns": turns})
        middles = 0.0125 + np.arange(len(target)) / 50
        talking = [len({who for who, start, end in turns if start <= middle < end}) for middle in middles]
        assert target.tolist() == np.minimum(talking, 2).tolist()
        # Nobody speaks in a later frame.
        assert middles[-1] + 1 / 50 >= max(end for *_, end in turns)
    assert head.read_target({"turns": []}).shape == (0,)
    with pytest.raises(UserError, match="no turns"):
        head.read_target({})
    with pytest.raises(UserError, match="ends before it begins"):
        head.read_target({"turns": [["anna", 2.0, 1.0]]})
    target = torch.arange(100) % 3
    assert torch.equal(head.crop_target(target, 320 * 10, 320 * 20), target[10:30])


def test_soft_targets_are_means_of_a_window_that_ends_with_the_recording():
    head = built(fuzzy=0.04)  # two frames on either side
    classes = torch.tensor([[0, 0, 1, 2, 2, 1, 0, 0], [2, 1, 1, 0, 1, 1, 1, 1]])
    lengths = torch.tensor([8, 4])
    found = head.soft_targets(classes, lengths)
    for row, length in enumerate(lengths.tolist()):
        for frame in range(length):
            around = [int(classes[row, min(max(place, 0), length - 1)]) for place in range(frame - 2, frame + 3)]
            assert found[row, frame].tolist() == pytest.approx([around.count(number) / 5 for number in range(3)])
    sharp = built(fuzzy=0.0).soft_targets(classes, lengths)
    assert torch.equal(sharp[0].argmax(1), classes[0]) and set(sharp.flatten().tolist()) == {0.0, 1.0}


def test_the_loss_is_lowest_for_the_truth_and_leaves_padding_out():
    head = built(fuzzy=0.0)
    targets = Targets.pad([torch.tensor([0, 1, 2, 1]), torch.tensor([1])])
    lengths = torch.tensor([5, 2])
    wanted = torch.tensor([[0, 1, 2, 1, 0], [1, 0, 2, 2, 2]])
    right = 20.0 * torch.nn.functional.one_hot(wanted, 3).float()
    assert float(head.loss(right, lengths, targets)) < 1e-6
    other = right.clone()
    other[1, 2:] = -7.0  # behind the end
    assert torch.equal(head.loss(other, lengths, targets), head.loss(right, lengths, targets))
    other[0, 2] = other[0, 2].roll(1)
    assert float(head.loss(other, lengths, targets)) > 1


def test_regions_follow_the_settings_that_were_chosen():
    head = built()
    logits = torch.full((1, 100, 3), -20.0)
    logits[0, :, 0] = 0.0
    logits[0, 10:40, 1] = 20.0
    logits[0, 20:25, 2] = 40.0
    (row,) = head.readable(logits, torch.tensor([90]))
    assert row == {"speech": [[0.203, 0.803]], "overlap": [[0.402, 0.503]]} or np.allclose(
        [*row["speech"][0], *row["overlap"][0]], [0.2025, 0.8025, 0.4025, 0.5025], atol=1e-3
    )
    head.fitted = {event: DetectionSetting(0.5, 0.5, 0.2, 0.0)._asdict() for event in EVENTS}
    assert head.readable(logits, torch.tensor([90]))[0]["overlap"] == []  # 0.1 s is too short


def test_scores_are_probabilities_whatever_rounding_does():
    """A sum of two shares may be 1.0000001, which torchmetrics would take for a logit, and all others with it."""
    logits = torch.randn(200_000, 3, generator=torch.Generator().manual_seed(0)) * 12
    shares = logits.softmax(-1)
    assert (shares[:, 1] + shares[:, 2]).max() > 1
    assert OverlapDetection(Fbank(), 1e-3).event_scores(logits).max() == 1
    metric = FrameAveragePrecision()
    four, classes = (
        (torch.randn(100_000, 4, generator=torch.Generator().manual_seed(1)) * 14).softmax(-1),
        torch.arange(100_000) % 4,
    )
    assert four[:, 2:].sum(1).max() > 1
    metric.update(four, classes)
    three = torch.stack([four[:, 0], four[:, 1], four[:, 2:].sum(1).clamp(max=1)], 1)
    wanted = torch.nn.functional.one_hot(THREE[classes], 3)
    expected = average_precision_score(wanted.flatten(), three.flatten())
    assert metric.compute()["map_micro"] == pytest.approx(expected, abs=1e-5)


def test_validation_chooses_the_settings_and_the_checkpoint_keeps_them(tiny, tmp_path):
    data = TaskData(str(tiny / "meetings"), batch_size=2, max_seconds=3.0)
    head = OverlapDetection(Fbank(), 1e-2, hidden=8)
    trainer = quiet_trainer(max_steps=4, callbacks=[ModelCheckpoint(tmp_path)])
    trainer.fit(head, data)
    assert all(chosen in SETTINGS for chosen in head.chosen.values())
    fitted = float(trainer.callback_metrics["valid/overlap_f1"])
    again = OverlapDetection(Fbank(), hidden=8)
    (values,) = quiet_trainer().validate(again, data, ckpt_path=str(next(tmp_path.glob("*.ckpt"))), verbose=False)
    assert values["valid/overlap_f1"] == pytest.approx(fitted) and again.chosen == head.chosen
    chosen = dict(head.chosen)
    (tested,) = trainer.test(head, data, verbose=False)
    assert head.chosen == chosen and head.details["setting_chosen_on"] == "valid"
    assert head.details["overlap"]["setting"] == chosen["overlap"]._asdict()
    assert head.utterance_results is not None and head.scored.missing == ""
    assert head.utterance_results.value == pytest.approx(tested["test/overlap_f1"], abs=1e-5)
