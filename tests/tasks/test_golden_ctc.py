"""Logits, loss and gradient of PR, ASR and SF as s3prl has them.

The numbers were printed by s3prl at commit ec8064b5: `downstream/model.py::FrameLevel` (PR) and
`downstream/asr/model.py::RNNs` with dim [8, 8] (ASR, SF) behind a linear projector and the softmax-weighted sum of
`upstream/interfaces.py`, in evaluation mode; `torch.nn.CTCLoss` with zero_infinity as in `downstream/{asr,ctc}/expert.py`.
Weights and features are `golden.fill` and `golden.features`.
"""

from __future__ import annotations

import string

import golden
import pytest
import torch
from shaped import Shaped

from wavlm_lightning.data.batch import Targets
from wavlm_lightning.tasks.content.phoneme_recognition import PhonemeRecognition
from wavlm_lightning.tasks.content.speech_recognition import SpeechRecognition
from wavlm_lightning.tasks.semantics.slot_filling import SlotFilling

LENGTHS = [23, 14, 6]
PLACES = [(0, 0), (0, 22), (1, 13), (2, 5)]


def phoneme_recognition():
    head = PhonemeRecognition(Shaped(3, 24), hidden=16)
    head.build(["<pad>", "<eos>", "<unk>", *"ABCDEFG"])
    return head


def speech_recognition():
    head = SpeechRecognition(Shaped(3, 24), hidden=8)
    head.build(head.read_labels(None))
    return head


def slot_filling():
    head = SlotFilling(Shaped(3, 24), hidden=8)
    head.build(["<pad>", "<eos>", "<unk>", " ", *string.ascii_uppercase, "'", "B-a", "E-a", "B-b", "E-b"])
    return head


CASES = [
    (
        phoneme_recognition,
        [[3, 4, 4, 9, 1], [5, 1], [7, 1]],
        [
            [0.24425, 0.450633, 0.420126, 0.168916],
            [0.181005, 0.378672, 0.377164, 0.17747],
            [-0.150696, -0.069921, 0.046787, 0.138461],
            [0.244046, 0.448555, 0.417263, 0.166769],
        ],
        8.1039743,
        [0.009751, -0.003956, -0.005796],
        [58, 34, 14],
    ),
    (
        speech_recognition,
        [[10, 7, 4, 6, 5, 4, 2], [9, 4, 2], [8, 2]],
        [
            [0.198471, 0.237769, 0.152829, -0.012013],
            [0.36843, 0.319998, 0.104232, -0.165966],
            [0.392375, 0.302313, 0.054186, -0.222144],
            [0.308147, 0.289909, 0.120107, -0.112448],
        ],
        9.3835917,
        [-0.002411, -0.007423, 0.009833],
        [152, 98, 105],
    ),
    (
        slot_filling,
        [[31, 4, 5, 32, 3, 33, 30, 34, 1], [6, 7, 3], [9, 1]],
        [
            [0.191399, 0.230413, 0.149028, -0.010276],
            [0.361358, 0.312642, 0.100431, -0.16423],
            [0.385303, 0.294957, 0.050385, -0.220408],
            [0.301076, 0.282554, 0.116306, -0.110711],
        ],
        9.1004763,
        [-0.004296, -0.013741, 0.018037],
        [152, 98, 105],
    ),
]


@pytest.mark.parametrize(("make", "targets", "logits", "loss", "gradient", "best"), CASES)
def test_ctc_heads_are_those_of_s3prl(make, targets, logits, loss, gradient, best):
    head = make().eval()
    golden.fill(head)
    outputs, lengths = head(golden.features(LENGTHS))
    for (row, frame), wanted in zip(PLACES, logits, strict=True):
        assert outputs[row, frame, :4].tolist() == pytest.approx(wanted, abs=1e-5)
    assert [int(outputs[row, :end].argmax(-1).sum()) for row, end in enumerate(LENGTHS)] == best
    value = head.loss(outputs, lengths, Targets.pad([torch.tensor(target) for target in targets]))
    assert value.item() == pytest.approx(loss, abs=1e-5)
    value.backward()
    assert head.weighted_sum.logits.grad.tolist() == pytest.approx(gradient, abs=1e-5)
