"""kNN-VC's matching against brute force."""

import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist

from wavlm_lightning.errors import UserError
from wavlm_lightning.tasks.components.vocoder import neighbours
from wavlm_lightning.tasks.components.vocoder.neighbours import Frames, nearest_frames, spoken_by


@pytest.mark.parametrize("k", [1, 4, 30])
@pytest.mark.parametrize("at_a_time", [2**25, 90])  # similarities: all queries, or three
def test_it_is_the_mean_of_the_frames_nearest_by_cosine(k, at_a_time, monkeypatch):
    monkeypatch.setattr(neighbours, "MOST_SIMILARITIES", at_a_time)
    draw = np.random.default_rng(0)
    source, searched, spoken = draw.normal(size=(17, 8)), draw.normal(size=(30, 8)) * 5, draw.normal(size=(30, 3))
    order = cdist(source, searched, "cosine").argsort(1)[:, :k]
    voice = Frames(torch.tensor(searched), torch.tensor(spoken))
    assert np.array_equal(nearest_frames(torch.tensor(source), voice.searched, k), order)
    np.testing.assert_allclose(spoken_by(torch.tensor(source), voice, k), spoken[order].mean(1))


def test_frames_that_must_not_be_chosen_are_not():
    frames = torch.randn(10, 4)
    allowed = torch.arange(10) >= 5
    assert nearest_frames(frames, frames, 1)[:, 0].tolist() == list(range(10))
    assert int(nearest_frames(frames, frames, 5, allowed).min()) == 5
    with pytest.raises(UserError, match="6 nearest frames of a voice of 5 frames"):
        nearest_frames(frames, frames, 6, allowed)
