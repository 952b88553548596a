"""Logits, loss and gradient of the utterance-level heads as s3prl has them.

The numbers were printed by s3prl at commit ec8064b5: `downstream/model.py::UtteranceLevel` with mean pooling behind a
linear projector and the softmax-weighted sum of `upstream/interfaces.py`; cross-entropy (KS, SID, ER), or the sum of one
for each slot as in `downstream/fluent_commands/expert.py` (IC). Weights and features are `golden.fill` and
`golden.features`.
"""

from __future__ import annotations

import golden
import pytest
import torch
from shaped import Shaped

from wavlm_lightning.data.batch import Targets
from wavlm_lightning.tasks import KeywordSpotting, SpeakerIdentification
from wavlm_lightning.tasks.paralinguistics.emotion_recognition import EmotionRecognition
from wavlm_lightning.tasks.semantics.intent_classification import IntentClassification

ONE_OF_FIVE = [
    [-0.093508, 0.012061, 0.110302, 0.150007, 0.111027],
    [-0.088937, 0.015869, 0.111351, 0.147747, 0.106643],
    [-0.084095, 0.023687, 0.118048, 0.149813, 0.102994],
]
SLOTS = [
    [-0.007324, 0.1259, 0.192389, 0.157505, 0.040022, -0.097968, -0.183871, -0.172779, -0.070947],
    [-0.002752, 0.129708, 0.193438, 0.155245, 0.035638, -0.102178, -0.185701, -0.17127, -0.066889],
    [0.00209, 0.137527, 0.200135, 0.157311, 0.03199, -0.109629, -0.193049, -0.174664, -0.064551],
]


def check(head, targets, logits, loss, gradient):
    golden.fill(head)
    outputs, lengths = head(golden.features([23, 14, 6]))
    for row, wanted in zip(outputs, logits, strict=True):
        assert row.tolist() == pytest.approx(wanted, abs=1e-5)
    value = head.loss(outputs, lengths, Targets.pad([torch.tensor(target) for target in targets]))
    assert value.item() == pytest.approx(loss, abs=1e-5)
    value.backward()
    assert head.weighted_sum.logits.grad.tolist() == pytest.approx(gradient, abs=1e-5)


@pytest.mark.parametrize("task", [KeywordSpotting, SpeakerIdentification, EmotionRecognition])
def test_one_class_an_utterance_is_as_in_s3prl(task):
    head = task(Shaped(3, 24), hidden=16)
    head.build(list("ABCDE"))
    check(head, [1, 4, 0], ONE_OF_FIVE, 1.6610569, [0.005555, 0.002373, -0.007928])


def test_three_slots_are_as_in_s3prl():
    head = IntentClassification(Shaped(3, 24), hidden=16)
    head.build({"action": list("AB"), "object": list("CDEF"), "location": list("GHI")})
    targets = [[1, 0, 1], [0, 3, 2], [1, 2, 0]]
    check(head, targets, SLOTS, 3.1977434, [0.002086, 0.002557, -0.004643])
