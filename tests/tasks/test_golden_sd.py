"""Logits, loss, accuracy and gradient of SD as s3prl has them.

The numbers were printed by s3prl at commit ec8064b5: `downstream/diarization/model.py` and `utils.py` (`pit_loss`,
`calc_diarization_error`) behind the softmax-weighted sum of `upstream/interfaces.py`; the accuracy is the mean of the
three rows', each alone, as with its validation batches of one. Weights and features are `golden.fill`, the last layer's
weight times 8 and its bias times 0.1, and `golden.features`.
"""

from __future__ import annotations

import golden
import pytest
import torch
from shaped import Shaped

from wavlm_lightning.data.batch import Targets
from wavlm_lightning.tasks.speaker.speaker_diarization import SpeakerDiarization, best_permutation, match_frames

LENGTHS = [23, 14, 6]
LOGITS = {
    (0, 0): [-0.085242, 0.007334],
    (0, 2): [-0.112766, -0.063698],
    (0, 22): [-0.738608, -0.509454],
    (1, 13): [-0.171621, -0.135163],
    (2, 5): [-0.412110, -0.355267],
}


def test_logits_loss_and_gradient_are_those_of_s3prl():
    head = SpeakerDiarization(Shaped(3, 24), hidden=16)
    head.build(["speaker1", "speaker2"])
    golden.fill(head)
    with torch.no_grad():
        head.classifier.weight.mul_(8)
        head.classifier.bias.mul_(0.1)
    outputs, lengths = head(golden.features(LENGTHS))
    for place, wanted in LOGITS.items():
        assert outputs[place].tolist() == pytest.approx(wanted, abs=1e-5)
    targets = Targets.pad([(golden.wave((length, 2), float(length)) > 0.2).long() for length in LENGTHS])
    orders = best_permutation(outputs, match_frames(targets.values, 23), lengths)[1]
    assert orders.tolist() == [[1, 0], [0, 1], [1, 0]]
    assert head.accuracy(outputs, lengths, targets).item() == pytest.approx(0.5289855, abs=1e-6)
    loss = head.loss(outputs, lengths, targets)
    assert loss.item() == pytest.approx(0.6791265, abs=1e-5)
    loss.backward()
    assert head.weighted_sum.logits.grad.tolist() == pytest.approx([-0.002297, -0.006058, 0.008355], abs=1e-5)
