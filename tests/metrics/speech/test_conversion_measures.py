"""Measures of voice conversion: what a gain costs, alignment against dtw-python, pitch of made voices, judges."""

from __future__ import annotations

import math
import sys

import numpy as np
import pytest
import torch
from scipy.signal import lfilter

from wavlm_lightning.metrics.speech import judges
from wavlm_lightning.metrics.speech.cepstra import aligned, distortion, mel_cepstra, warping_path
from wavlm_lightning.metrics.speech.conversion import MEASURES, SOURCE, TARGET, ConversionMeasures
from wavlm_lightning.metrics.speech.pitch import pitch, pitch_agreement
from wavlm_lightning.system.errors import UserError

VOWEL = (500, 1500, 2500)


def voice(hertz: float | np.ndarray, samples: int = 16_000, formants: tuple[int, ...] = VOWEL) -> np.ndarray:
    """Pulses of a frequency through resonances of 80 Hz."""
    periods = np.cumsum(np.broadcast_to(hertz, samples)) / 16_000
    waveform = np.diff(np.floor(periods), prepend=0.0)
    radius = math.exp(-math.pi * 80 / 16_000)
    for formant in formants:
        waveform = lfilter([1], [1, -2 * radius * math.cos(2 * math.pi * formant / 16_000), radius**2], waveform)
    return (0.5 * waveform / np.abs(waveform).max()).astype(np.float32)


def distance(converted: np.ndarray, target: np.ndarray, level: bool = False) -> float:
    pairs = aligned(converted, target)
    assert pairs is not None
    return distortion(pairs, level)


def test_a_gain_costs_decibels_with_c0_and_nothing_without() -> None:
    spoken = voice(np.linspace(90, 140, 16_000))
    assert distance(2 * spoken, spoken) == pytest.approx(0, abs=1e-4)
    # (10 / ln 10) sqrt(2) ln 2
    assert distance(2 * spoken, spoken, level=True) == pytest.approx(4.257, abs=1e-3)
    assert distance(spoken, spoken, level=True) == 0


def test_without_c0_it_is_the_rms_difference_of_log_spectra() -> None:
    """A tilt of one cosine: half its square is the mean over frequencies."""
    spoken = voice(100.0)
    coefficients, heard = mel_cepstra(spoken)
    tilted = coefficients.copy()
    tilted[:, 1] += 0.5
    path = np.repeat(np.flatnonzero(heard)[:, None], 2, 1)
    bands = 0.5 * np.cos(np.pi * (np.arange(40) + 0.5) / 40)
    decibels = 20 / math.log(10) * math.sqrt(np.mean(bands**2))
    assert distortion((coefficients, tilted, path)) == pytest.approx(decibels)


def test_time_is_warped_and_another_vowel_is_not() -> None:
    def word(lengths: tuple[int, int]) -> np.ndarray:
        return np.concatenate([voice(100.0, lengths[0]), voice(100.0, lengths[1], (300, 2200, 3000))])

    slower, other = distance(word((8000, 12_000)), word((5000, 6000))), distance(word((8000, 8000)), voice(100.0))
    assert slower < 0.7 < 2 < other
    # Silence around the speech is not compared.
    assert distance(np.pad(word((5000, 6000)), 4000), word((5000, 6000))) < 0.3


def test_the_alignment_is_that_of_dtw_python() -> None:
    dtw = pytest.importorskip("dtw").dtw
    rng = np.random.default_rng(5)
    for rows, columns in ((1, 1), (1, 6), (7, 1), (23, 31), (40, 17)):
        one, other = rng.normal(size=(rows, 4)), rng.normal(size=(columns, 4))
        path = warping_path(one, other)
        assert path[0].tolist() == [0, 0] and path[-1].tolist() == [rows - 1, columns - 1]
        assert {tuple(step) for step in np.diff(path, axis=0)} <= {(1, 1), (1, 0), (0, 1)}
        cost = np.linalg.norm(one[path[:, 0]] - other[path[:, 1]], axis=1).sum()
        if min(rows, columns) > 1:
            assert cost == pytest.approx(dtw(one, other, step_pattern="symmetric1").distance)


@pytest.mark.parametrize("hertz", [75.0, 110.0, 230.0, 390.0])
def test_the_pitch_of_a_made_voice(hertz: float) -> None:
    found = pitch(voice(hertz))
    assert np.abs(found[10:-10] / hertz - 1).max() < 0.01


def test_pitch_follows_a_glide_and_noise_has_none() -> None:
    glide = np.linspace(100, 200, 32_000)
    assert np.abs(pitch(voice(glide, 32_000))[10:-10] / glide[::80][10:-10] - 1).max() < 0.01
    rng = np.random.default_rng(2)
    assert not pitch(0.1 * rng.normal(size=16_000)).any()
    half = np.concatenate([voice(150.0, 8000), 0.05 * rng.normal(size=8000)])
    assert 0.45 < (pitch(half) > 0).mean() < 0.55
    assert not pitch(np.zeros(800)).any()


def test_agreement_of_contours() -> None:
    times = np.arange(32_000) / 16_000
    up, down = voice(120 + 30 * np.sin(3 * times), 32_000), voice(220 - 50 * np.sin(3 * times), 32_000)
    same = np.repeat(np.arange(400)[:, None], 2, 1)
    assert pitch_agreement(up, up, same) == (pytest.approx(1), 0)
    assert pitch_agreement(up, down, same).correlation < -0.95
    assert pitch_agreement(up, voice(100.0, 32_000), same).correlation is None  # a monotone agrees with nothing
    hissed = up.copy()
    hissed[16_000:] = 0.1 * np.random.default_rng(1).normal(size=16_000)
    assert pitch_agreement(up, hissed, same).voicing_error == pytest.approx(0.5, abs=0.02)


def test_means_rows_and_what_has_no_figure() -> None:
    one, other = torch.from_numpy(voice(100.0)), torch.from_numpy(voice(150.0, formants=(700, 1200, 2600)))
    metric = ConversionMeasures(["mcd", "content"])
    metric.update(one, target=other, errors=(1, 4))
    metric.update(other, target=other, errors=(0, 8))
    metric.update(one, target=0 * other, errors=(8, 8))  # silence has no distortion
    metric.update(other, errors=(2, 4), row=SOURCE)  # nor has what has no counterpart
    values = metric.compute()
    assert values["mcd"] == pytest.approx(distance(one.numpy(), other.numpy()) / 2)
    assert values["content"] == pytest.approx(9 / 20) and values["unprocessed/content"] == 0.5
    assert values["left_out/mcd"] == 1 and "unprocessed/mcd" not in values
    with pytest.raises(UserError, match="no measure of conversion"):
        ConversionMeasures(["mcdd"])
    with pytest.raises(UserError, match="more than 60 s"):
        metric.update(torch.ones(16_000 * 61), target=other)


def test_a_conversion_without_sound_has_the_worst_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Left out of the means, it would make a model that answers nothing to hard sentences the better one."""
    monkeypatch.setattr("wavlm_lightning.metrics.speech.conversion.voice_vector", lambda waveform: np.array([0.8]))
    monkeypatch.setattr("wavlm_lightning.metrics.speech.conversion.opinion", lambda waveform: 3.0)
    target = torch.from_numpy(voice(150.0))
    metric = ConversionMeasures(["mcd", "mcd_c0", "voicing_error", "similarity", "quality"])
    metric.update(torch.zeros(12_000), target=target, voice=np.ones(1))
    values = metric.compute()
    coefficients, speech = mel_cepstra(target.numpy())
    flat = 10 / np.log(10) * np.sqrt(2 * np.square(coefficients[speech, 1:]).sum(1)).mean()
    assert values["mcd"] == pytest.approx(flat) and values["mcd_c0"] > values["mcd"] > 1
    assert values["silent/answers"] == 1 and not any(name.startswith("left_out") for name in values)
    assert values["voicing_error"] > 0.9 and values["similarity"] == 0 and values["quality"] == 1
    metric.update(target, target=target, voice=np.ones(1), row=TARGET)
    metric.update(target, target=target, voice=0.5 * np.ones(1), row=SOURCE)
    metric.update(target, target=target, voice=np.ones(1))
    values = metric.compute()
    assert values["accepted"] == 0.5 and values["mcd"] == pytest.approx(flat / 2) and values["similarity"] == 0.4
    metric.update(torch.full((12_000,), torch.nan), target=target)
    assert metric.compute()["mcd"].isnan()


def test_the_threshold_is_where_own_and_source_recordings_err_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    cosines = iter([0.9, 0.7, 0.2, 0.3, 0.8, 0.75, 0.1])
    monkeypatch.setattr(
        "wavlm_lightning.metrics.speech.conversion.voice_vector", lambda waveform: np.array([next(cosines)])
    )
    metric = ConversionMeasures(["similarity"])
    for row in (TARGET, TARGET, SOURCE, SOURCE, "", "", ""):
        metric.update(torch.ones(10), voice=np.ones(1), row=row)
    values = metric.compute()
    assert values["target/eer"] == 0 and 0.3 < values["target/threshold"] <= 0.7
    assert values["accepted"] == pytest.approx(2 / 3) and values["similarity"] == pytest.approx(0.55)
    assert values["told_apart"] == pytest.approx(1 / 3, abs=0.2) and set(MEASURES) > {"similarity"}


def test_processes_join_what_each_has_heard(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four utterances, one and none, against all in one process."""
    heard = [(TARGET, 0.9), (SOURCE, 0.2), ("", 0.8), ("", 0.1), (SOURCE, 0.85)]

    def measured(rows: list[tuple[str, float]]) -> ConversionMeasures:
        cosines = iter(np.array([cosine]) for _, cosine in rows)
        monkeypatch.setattr("wavlm_lightning.metrics.speech.conversion.voice_vector", lambda waveform: next(cosines))
        metric = ConversionMeasures(["similarity"])
        for row, _ in rows:
            metric.update(torch.ones(10), voice=np.ones(1), row=row)
        return metric

    processes, sent = [measured(heard[:4]), measured(heard[4:]), measured([])], list[list[torch.Tensor]]()
    for metric in processes:
        sent.append([])
        metric.sync(
            dist_sync_fn=lambda state, group: sent[-1].append(state) or [state], distributed_available=lambda: True
        )
        metric.unsync()
    for states in zip(*sent, strict=True):  # what all_gather asks for, after torchmetrics has padded them
        assert len({(state.ndim, state.dtype) for state in states}) == 1
    others = iter(zip(*sent, strict=True))
    processes[0].dist_sync_fn = lambda state, group: list(next(others))
    processes[0].distributed_available_fn = lambda: True
    assert processes[0].compute() == measured(heard).compute()


def test_a_missing_judge_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    judges._voices.cache_clear()
    monkeypatch.setattr(judges, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"similarity needs resemblyzer: .*judges"):
        judges.voice_vector(voice(100.0))
    assert not judges.can_judge("quality")


@pytest.mark.slow
def test_the_judges_hear() -> None:
    pytest.importorskip("resemblyzer")
    pytest.importorskip("distillmos")
    spoken = voice(120 + 30 * np.sin(np.arange(32_000) / 4000), 32_000)
    vector, louder = judges.voice_vector(spoken), judges.voice_vector(0.2 * spoken)
    assert vector is not None and louder is not None and np.linalg.norm(vector) == pytest.approx(1, abs=1e-4)
    assert vector @ louder > 0.99
    assert judges.voice_vector(np.zeros(16_000, np.float32)) is None
    assert np.linalg.norm(judges.voice_of([spoken, 0.1 * spoken])) == pytest.approx(1, abs=1e-4)
    assert 0.5 < judges.opinion(spoken) < 5.5
    assert "distillmos" in sys.modules
