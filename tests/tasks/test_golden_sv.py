"""Embeddings, loss and gradient of SV as s3prl has them.

The numbers were printed by s3prl at commit ec8064b5: `downstream/sv_voxceleb1/model.py` (`XVector`, `SP`,
`UtteranceExtractor`, `AMSoftmaxLoss` with s=30, m=0.4) behind a linear connector and the softmax-weighted sum of
`upstream/interfaces.py`. Each row went through it alone, where its pooling takes no padding in; ours went together.
Weights and features are `golden.fill`, matrices times 3, and `golden.features`; a convolution's weight is a linear layer's
with its last two axes swapped.
"""

from __future__ import annotations

import golden
import pytest
import torch
from shaped import Shaped
from torch import nn

from wavlm_lightning.data.batch import Targets
from wavlm_lightning.tasks.speaker.speaker_verification import SpeakerVerification

EMBEDDINGS = [
    [0.157079, 0.0, 0.431892, 0.0, 0.0, 0.496711],
    [0.153632, 0.0, 0.434504, 0.0, 0.0, 0.497768],
    [0.077335, 0.0, 0.483850, 0.0, 0.0, 0.514843],
]
COSINES = {(0, 1): 0.999977, (0, 2): 0.986647, (1, 2): 0.987665}


def test_embeddings_loss_and_gradient_are_those_of_s3prl():
    head = SpeakerVerification(Shaped(3, 24), hidden=16, widths=(16, 16, 16, 16, 24), embedding=16)
    head.build(list("ABCDE"))
    golden.fill(head)
    with torch.no_grad():
        for parameter in head.parameters():
            if parameter.ndim > 1:
                parameter.mul_(3)
    outputs, lengths = head(golden.features([40, 33, 20]))
    embeddings = nn.functional.normalize(outputs, dim=1)
    for row, wanted in zip(embeddings, EMBEDDINGS, strict=True):
        assert row[:6].tolist() == pytest.approx(wanted, abs=1e-5)
    for (one, other), cosine in COSINES.items():
        assert (embeddings[one] @ embeddings[other]).item() == pytest.approx(cosine, abs=1e-5)
    loss = head.loss(outputs, lengths, Targets(torch.tensor([1, 4, 0]), torch.ones(3)))
    assert loss.item() == pytest.approx(13.4252691, abs=1e-5)
    loss.backward()
    assert head.weighted_sum.logits.grad.tolist() == pytest.approx([-0.135603, -0.088274, 0.223876], abs=1e-5)
