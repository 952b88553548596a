"""Measures of enhancement against their definitions."""

from __future__ import annotations

import sys
from itertools import permutations

import pytest
import torch

from wavlm_lightning.metrics import enhancement
from wavlm_lightning.metrics.enhancement import EnhancementMeasures
from wavlm_lightning.metrics.speech.separation import SeparationMeasures
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


def test_silent_references_are_left_out_and_silent_answers_are_the_worst():
    """A silent reference has no SI-SDR. A silent answer has none either, and left out it would raise the mean."""
    clean, noise = draw(2)
    metric = EnhancementMeasures(["si_sdr", "si_sdri"])
    metric.update(clean + noise, clean, clean + 2 * noise)
    alone = metric.compute()
    assert [metric.latest[name][0] for name in ("si_sdr", "si_sdri")] == pytest.approx(
        [float(alone[name]) for name in ("si_sdr", "si_sdri")]
    )
    for answer in (0.0, 1.0):
        metric.update(answer * clean, 0 * clean, noise)
        assert metric.latest == {"si_sdr": [], "si_sdri": []}
        metric.update(answer * clean, 0 * clean + 0.3, noise)
    values = metric.compute()
    assert values.pop("left_out/si_sdr") == 4 and values == alone
    for level in (0.0, 0.3):
        metric.update(0 * clean + level, clean, clean + 2 * noise)
        before = float(alone["unprocessed/si_sdr"])
        assert metric.latest == {"si_sdr": [-30.0], "si_sdri": [pytest.approx(-30 - before)]}
    values = metric.compute()
    assert values["silent/answers"] == 2 and values["left_out/si_sdr"] == 4
    assert values["si_sdr"] == pytest.approx((float(alone["si_sdr"]) - 60) / 3, abs=1e-4)


def test_measures_are_those_of_the_tools_also_on_degenerate_pairs():
    pystoi, pesq = pytest.importorskip("pystoi"), pytest.importorskip("pesq")
    clean, noise = draw(2)
    clean = clean * (torch.arange(16_000) % 4000 < 2500)
    pairs = {"noisy": clean + noise, "same": clean, "silent": 0 * clean, "faint": 1e-4 * (clean + noise)}
    for name, answer in pairs.items():
        metric = EnhancementMeasures(["stoi", "pesq"])
        metric.update(answer, clean, clean + 2 * noise)
        values = metric.compute()
        theirs = pystoi.stoi(clean.numpy(), answer.numpy(), 16_000)
        assert values["stoi"] == pytest.approx(theirs, abs=1e-4), name
        if name == "silent":  # without a figure of the tool; its scale begins at 1.04
            assert values["pesq"] == pytest.approx(1.04) and values["silent/answers"] == 1
            continue
        assert values["pesq"] == pytest.approx(pesq.pesq(16_000, clean.numpy(), answer.numpy(), "wb"), abs=1e-4), name
    assert EnhancementMeasures(["si_sdr"]).names == ["si_sdr"]
    identical = EnhancementMeasures(["si_sdr"])
    identical.update(clean, clean, clean + noise)
    assert identical.compute()["si_sdr"] > 80
    short = EnhancementMeasures(["stoi", "pesq"])
    short.update(clean[:2000], clean[:2000], noise[:2000])  # pystoi would answer 1e-5 with a warning
    assert short.compute()["left_out/stoi"] == short.compute()["left_out/pesq"] == 1


def test_quiet_pairs_have_the_figure_of_loud_ones():
    clean, noise = draw(2)
    answer = clean + 0.1 * noise
    wanted = definition(answer, clean)
    for level in (1e-3, 1e-6):
        assert enhancement.si_sdr(level * answer, clean) == pytest.approx(wanted, abs=1e-3)
        assert enhancement.si_sdr(level * answer, level * clean) == pytest.approx(wanted, abs=1e-3)
    if enhancement.is_installed("pesq"):
        assert enhancement.pesq(1e-38 * answer, clean) is None
    if enhancement.is_installed("stoi"):
        assert enhancement.stoi(answer[:400], clean[:400]) is None


def test_an_answer_that_is_not_finite_is_not_left_out():
    clean, noise = draw(2)
    names = [name for name in enhancement.MEASURES if enhancement.is_installed(name)]
    metric = EnhancementMeasures(names)
    for gain in (1.0, float("nan")):
        metric.update(gain * clean, clean, clean + noise)
    values = metric.compute()
    assert all(values[name].isnan() for name in names) and not any(name.startswith("left_out") for name in values)
    parts = SeparationMeasures(["si_sdr"])
    sources = draw(2).T
    parts.update(torch.stack([sources[:, 1], float("nan") * noise], 1), sources, sources.sum(1))
    assert [len(each["si_sdr"]) for each in parts.of_sources] == [1, 1]
    assert parts.of_sources[1]["si_sdr"][0] > 80 and parts.compute()["si_sdr"].isnan()


def test_the_oracle_counts_where_every_utterance_has_one():
    clean, noise = draw(2)
    metric = EnhancementMeasures(["si_sdr"])
    metric.update(clean + noise, clean, clean + noise, clean + 0.1 * noise)
    assert metric.compute()["oracle/si_sdr"] == pytest.approx(definition(clean + 0.1 * noise, clean), abs=1e-3)
    metric.update(clean + noise, clean, clean + noise)
    assert "oracle/si_sdr" not in metric.compute()


def test_separated_sources_are_scored_in_the_better_order():
    sources, noise = draw(3).T, draw(6)[3:].T
    for order in permutations(range(3)):
        metric = SeparationMeasures(["si_sdr", "si_sdri"])
        answers = (sources + 0.3 * noise)[:, list(order)]
        metric.update(answers, sources, sources.sum(1), sources + 0.1 * noise)
        each = [definition((sources + 0.3 * noise)[:, n], sources[:, n]) for n in range(3)]
        before = [definition(sources.sum(1), sources[:, n]) for n in range(3)]
        values = metric.compute()
        assert values["si_sdr"] == pytest.approx(sum(each) / 3, abs=1e-3)
        assert values["si_sdri"] == pytest.approx((sum(each) - sum(before)) / 3, abs=1e-3)
        assert sum(metric.latest["si_sdri"]) / 3 == pytest.approx(float(values["si_sdri"]), abs=1e-4)
        assert values["oracle/si_sdr"] > values["si_sdr"] + 5
    # One answer is silent: the source that it belongs to has the worst figure, the other its own.
    metric = SeparationMeasures(["si_sdr"])
    metric.update(torch.stack([0 * sources[:, 0], sources[:, 0] + noise[:, 0]], 1), sources[:, :2], sources[:, 0])
    found = definition(sources[:, 0] + noise[:, 0], sources[:, 0])
    assert (
        metric.latest["si_sdr"] == pytest.approx([found, -30.0], abs=1e-3) and metric.compute()["silent/answers"] == 1
    )
    assert metric.compute()["si_sdr"] == pytest.approx((found - 30) / 2, abs=1e-3)


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
