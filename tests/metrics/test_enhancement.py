"""Measures of enhancement against their definitions."""

from __future__ import annotations

import sys

import pytest
import torch

from wavlm_lightning.metrics import enhancement
from wavlm_lightning.metrics.enhancement import EnhancementMeasures
from wavlm_lightning.system.errors import UserError


def draw(count: int, samples: int = 16_000) -> torch.Tensor:
    return torch.randn(count, samples, generator=torch.Generator().manual_seed(3))


def definition(estimate: torch.Tensor, reference: torch.Tensor) -> float:
    """arXiv 1811.02508, equation 3, of signals without their means, in double precision."""
    estimate, reference = (x.double() - x.double().mean() for x in (estimate, reference))
    target = (estimate @ reference) / (reference @ reference) * reference
    return float(10 * torch.log10(target.square().sum() / (estimate - target).square().sum()))


def test_means_over_utterances_of_any_length_and_level():
    clean, noise = draw(3), draw(6)[3:]
    metric, expected, before = EnhancementMeasures(["si_sdr", "si_sdri"]), [], []
    for row, samples in enumerate((16_000, 9_000, 4_000)):
        reference = clean[row, :samples] + 0.2  # the mean is no part of it
        noisy = reference + (row + 1) * noise[row, :samples]
        answer = 3 * (reference + 0.1 * noise[row, :samples])
        metric.update(answer, reference, noisy)
        expected.append(definition(answer, reference))
        before.append(definition(noisy, reference))
    values = metric.compute()
    assert set(values) == {"si_sdr", "si_sdri", "unprocessed/si_sdr"}
    assert values["si_sdr"] == pytest.approx(sum(expected) / 3, abs=1e-3)
    assert values["unprocessed/si_sdr"] == pytest.approx(sum(before) / 3, abs=1e-3)
    assert values["si_sdri"] == pytest.approx((sum(expected) - sum(before)) / 3, abs=2e-3)


def test_silence_is_finite():
    metric = EnhancementMeasures(["si_sdr"])
    for answer, reference in ((0.0, 1.0), (1.0, 0.0), (0.0, 0.0)):
        row = draw(1)[0]
        metric.update(answer * row, reference * row, row)
    assert torch.isfinite(torch.stack([*metric.compute().values()])).all()


def test_intelligibility_falls_with_noise():
    pytest.importorskip("pystoi")
    time = torch.arange(32_000) / 16_000
    clean = torch.sin(2 * torch.pi * 300 * time) * (1 + torch.sin(2 * torch.pi * 4 * time))
    clean = clean + 0.05 * draw(1, 32_000)[0]
    noise = draw(2, 32_000)[1]
    values = []
    for level in (0.1, 1.0):
        metric = EnhancementMeasures(["stoi"])
        metric.update(clean + level * noise, clean, clean + 2 * noise)
        values.append(metric.compute())
    assert 1 >= values[0]["stoi"] > values[1]["stoi"] > values[0]["unprocessed/stoi"] >= -0.1
    assert values[0]["unprocessed/stoi"] == values[1]["unprocessed/stoi"]


def test_mistakes_are_one_sentence(monkeypatch):
    with pytest.raises(UserError, match="'pesk' is no measure of enhancement; there are si_sdr"):
        EnhancementMeasures(["pesk"])
    monkeypatch.setitem(sys.modules, "pystoi", None)
    monkeypatch.setattr(enhancement, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"stoi needs pystoi: pip install 'pystoi.*\(extra \[enhancement\]\)"):
        EnhancementMeasures(["si_sdr", "stoi"])
