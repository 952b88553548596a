"""Scores of transcripts, by hand and against an independent computation."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from wavlm_lightning.system.errors import UserError
from wavlm_lightning.tasks.components.confidence import LengthNormalisation, Scores, as_record, path_scores


def test_scores_by_hand():
    #                 blank  A     A     blank B
    posteriors = [0.9, 0.5, 0.7, 0.8, 0.2]
    path = [0, 1, 1, 0, 2]
    log_probabilities = torch.full((5, 3), -50.0)
    for frame, (symbol, value) in enumerate(zip(path, posteriors, strict=True)):
        log_probabilities[frame, symbol] = np.log(value)
    found = path_scores(log_probabilities, path, total=-4.0, acoustic=-3.0)
    assert found.tokens == 2 and found.total == -4.0 and found.acoustic == -3.0
    assert found.fusion == -2.0
    assert found.confidence == pytest.approx((0.6 + 0.2) / 2, abs=1e-6)
    assert found.frames == pytest.approx((0.5 + 0.7 + 0.2) / 3, abs=1e-6)
    heard = sorted([0.5, 0.7, 0.2])
    assert found.low == pytest.approx(np.mean([heard[0], *np.quantile(heard, [0.05, 0.1, 0.2])]), abs=1e-6)


def test_equal_tokens_with_a_blank_between_are_two():
    log_probabilities = torch.randn(4, 3).log_softmax(-1)
    assert path_scores(log_probabilities, [1, 0, 1, 1], 0.0, 0.0).tokens == 2
    assert path_scores(log_probabilities, [1, 1, 2, 2], 0.0, 0.0).tokens == 2
    assert path_scores(log_probabilities, [0, 0, 0, 0], 0.0, 0.0) is None


def test_low_reacts_to_one_wrong_word():
    good = torch.full((40, 2), 0.95).log()
    one_wrong = good.clone()
    one_wrong[20:22, 1] = np.log(0.05)
    path = [1, 0] * 20
    before, after = (path_scores(each, path, -1.0, -1.0) for each in (good, one_wrong))
    assert before.low - after.low > 0.2 > 0.1 > before.confidence - after.confidence > 0


def test_scores_are_normalised_by_length():
    rng = np.random.default_rng(0)
    tokens = rng.integers(5, 200, 4000)
    totals = -0.4 * tokens - 2.0 + 0.3 * np.sqrt(tokens) * rng.standard_normal(4000)
    fitted = LengthNormalisation.fit(totals.tolist(), tokens.tolist(), "valid")
    assert fitted.mu == pytest.approx(-0.4, abs=0.005) and fitted.beta == pytest.approx(-2.0, abs=0.3)
    assert fitted.sigma == pytest.approx(0.3, rel=0.05) and fitted.utterances == 4000
    normal = [fitted(Scores(int(n), float(s), float(s), 0.0, 0.0, 0.0)) for n, s in zip(tokens, totals, strict=True)]
    assert np.std(normal) == pytest.approx(1.0, rel=1e-6) and abs(np.mean(normal)) < 0.05
    assert abs(np.corrcoef(normal, tokens)[0, 1]) < 0.05, "long and short transcripts stand the same chance"
    scores = Scores(10, -5.0, -5.0, 0.5, 0.6, 0.4)
    assert as_record(scores, fitted)["normalised"] == round(
        (-5 - 10 * fitted.mu - fitted.beta) / (fitted.sigma * 10**0.5), 6
    )
    assert "normalised" not in as_record(scores, None)


@pytest.mark.parametrize("tokens", [[], [4, 5], [4, 4, 4, 4]])
def test_too_few_transcripts_are_no_line(tokens):
    with pytest.raises(UserError, match=r"valid: .*choose another --score"):
        LengthNormalisation.fit([-1.0 * n for n in tokens], tokens, "valid")
