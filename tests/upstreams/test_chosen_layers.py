"""Some layers of an upstream are those very layers."""

from __future__ import annotations

import pytest
import torch

from wavlm_lightning.system.errors import UserError
from wavlm_lightning.upstreams import ChosenLayers, WavLMUpstream


def test_they_are_those_of_the_upstream():
    upstream = WavLMUpstream("tiny")
    audio, lengths = torch.randn(2, 8000), torch.tensor([8000, 5000])
    whole, some = upstream(audio, lengths), ChosenLayers(upstream, [3, -1])(audio, lengths)
    assert torch.equal(some.hidden, whole.hidden[[3, 4]]) and torch.equal(some.lengths, whole.lengths)
    one, other = ChosenLayers(upstream, [3]), ChosenLayers(upstream, [2])
    assert one.num_layers == 1 and one.label == "random weights (tiny), layer 3"
    assert len({each.fingerprint() for each in (upstream, one, other)}) == 3
    assert not any(parameter.requires_grad for parameter in one.train().parameters())


def test_they_keep_the_labels_that_the_upstream_has_seen():
    upstream = WavLMUpstream("tiny")
    upstream.labelled = ({"utterances": 3, "seconds": 4.0, "corpus": "a"},)
    assert ChosenLayers(upstream, [2]).describe()["labelled"] == upstream.describe()["labelled"] != []


@pytest.mark.parametrize("layers", [[], [5], [-6], [1, 1], [0, -5]])
def test_what_is_not_there_is_named(layers):
    with pytest.raises(UserError, match=r"give some of the 5 layers of random weights \(tiny\), each once"):
        ChosenLayers(WavLMUpstream("tiny"), layers)
