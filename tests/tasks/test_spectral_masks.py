"""Spectrograms and back, masks, their targets and the order of sources, against plain loops and torchmetrics."""

from __future__ import annotations

from itertools import permutations

import pytest
import torch
from torchmetrics.functional.audio import permutation_invariant_training, scale_invariant_signal_distortion_ratio

from wavlm_lightning.system.errors import UserError
from wavlm_lightning.tasks.components.spectral import (
    MaskNetwork,
    Stft,
    apply_mask,
    best_assignment,
    best_mask,
    distances,
    in_order,
    nearest_features,
    phase_sensitive_magnitude,
    same_number,
)


@pytest.fixture
def noise() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@pytest.mark.parametrize("window, hop, size", [(512, 320, 512), (512, 160, 512), (1024, 320, 1024), (400, 160, 512)])
@pytest.mark.parametrize("samples", [1, 63, 320, 575, 576, 3199, 4000])
def test_the_inverse_gives_back_every_sample(
    noise: torch.Generator, window: int, hop: int, size: int, samples: int
) -> None:
    stft = Stft(window, hop, size)
    waveform = torch.rand(2, samples, generator=noise) * 2 - 1
    spectrogram = stft(waveform)
    assert spectrogram.shape[2] == stft.bins
    assert torch.allclose(stft.inverse(spectrogram, samples), waveform, atol=1e-5, rtol=0)
    frames = int(stft.frames(torch.tensor([samples])))
    assert not spectrogram[:, frames:].any()
    spectrogram[:, frames:] = 1.0  # nothing behind the last frame reaches the waveform
    assert torch.allclose(stft.inverse(spectrogram, samples), waveform, atol=1e-5, rtol=0)


def test_windows_without_overlap_are_refused() -> None:
    with pytest.raises(UserError, match="hop below the window"):
        Stft(320, 320)


def test_a_spectrogram_is_that_of_librosa_where_both_have_frames(noise: torch.Generator) -> None:
    librosa = pytest.importorskip("librosa")
    waveform = torch.rand(1, 4000, generator=noise) - 0.5
    theirs = torch.from_numpy(librosa.stft(waveform[0].numpy(), n_fft=512, hop_length=320, pad_mode="constant")).T
    ours = Stft(512, 320)(waveform)[0]
    assert torch.allclose(ours[: len(theirs)], theirs, atol=1e-4)


def test_features_at_frames() -> None:
    features = torch.arange(1.0, 6.0)[None, :, None].repeat(2, 1, 1)
    lengths = torch.tensor([5, 3])
    # At twice the rate each feature serves two frames; the first is centred 200 samples behind the first frame.
    found = nearest_features(features, lengths, 50.0, 12, 160)[..., 0]
    assert found[0].tolist() == [1, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 5]
    assert found[1].tolist()[5:] == [3] * 7
    # Features that are centred on sample 0 belong to the frames of their number.
    assert nearest_features(features, lengths, 50.0, 5, 320, first_centre=0)[0, :, 0].tolist() == [1, 2, 3, 4, 5]
    assert same_number(features, lengths, 7)[..., 0].tolist() == [[1, 2, 3, 4, 5, 0, 0], [1, 2, 3, 0, 0, 0, 0]]
    assert same_number(features, lengths, 2)[..., 0].tolist() == [[1, 2], [1, 2]]


@pytest.mark.parametrize("dim, sources, layers, total", [(768, 2, 13, 51_427_343), (768, 1, 13, 50_966_542)])
def test_the_network_has_the_parameters_of_superb(dim: int, sources: int, layers: int, total: int) -> None:
    with torch.device("meta"):
        network = MaskNetwork(dim, 257, sources)
    assert sum(weight.numel() for weight in network.parameters()) + layers == total  # and the weights of the sum


def test_masks_do_not_depend_on_padding(noise: torch.Generator) -> None:
    network = MaskNetwork(6, 9, sources=2, hidden=4, layers=2, activation="sigmoid").eval()
    features = torch.randn(2, 8, 6, generator=noise)
    masks = network(features, torch.tensor([8, 5]))
    assert torch.allclose(network(features[1:, :5], torch.tensor([5]))[0], masks[1, :, :5], atol=1e-6)
    assert masks.min() >= 0 and masks.max() <= 1
    with pytest.raises(UserError, match="relu, sigmoid"):
        MaskNetwork(6, 9, activation="tanh")  # type: ignore[arg-type]


def test_targets_are_those_of_the_paper(noise: torch.Generator) -> None:
    sources = torch.randn(2, 2, 5, 4, dtype=torch.complex64, generator=noise)
    mixture = sources.sum(1)
    mixture[0, 0] = 0
    angle = mixture.angle()[:, None] - sources.angle()
    wanted = sources.abs() * torch.relu(torch.cos(angle))
    assert torch.allclose(phase_sensitive_magnitude(sources, mixture), wanted, atol=1e-5)
    masks = torch.rand(2, 2, 5, 4, generator=noise)
    spectrograms, compared = apply_mask(masks, mixture)
    assert torch.allclose(spectrograms.abs(), compared, atol=1e-6)
    spectrograms, compared = apply_mask(masks, mixture, "log")
    assert torch.allclose(spectrograms.abs().log1p(), compared, atol=1e-5)
    assert torch.allclose(spectrograms[1].angle(), mixture[1].angle().expand(2, -1, -1), atol=1e-4)
    # No other real mask between 0 and 1 is nearer.
    best = best_mask(sources[:, 0], mixture)
    for other in torch.linspace(0, 1, 11):
        error = (best * mixture - sources[:, 0]).abs()
        assert (error <= (other * mixture - sources[:, 0]).abs() + 1e-6).all()


@pytest.mark.parametrize("power", [1, 2])
def test_distances_are_sums_over_the_frames_of_an_utterance(noise: torch.Generator, power: int) -> None:
    estimates, references = (torch.rand(2, 3, 6, 4, generator=noise) for _ in range(2))
    found = distances(estimates, references, torch.tensor([6, 4]), power)
    error = (estimates[1, 2, :4] - references[1, 0, :4]).abs() ** power
    assert found[1, 2, 0] == pytest.approx(float(error.sum() / 4), rel=1e-5)
    assert found.shape == (2, 3, 3)


@pytest.mark.parametrize("sources", [1, 2, 3, 4])
def test_the_best_order_is_the_least_of_all(noise: torch.Generator, sources: int) -> None:
    costs = torch.rand(20, sources, sources, generator=noise, requires_grad=True)
    least, orders = best_assignment(costs)
    for row in range(20):
        means = {
            order: float(sum(costs[row, answer, source] for source, answer in enumerate(order)) / sources)
            for order in permutations(range(sources))
        }
        best = min(means, key=lambda order: means[order])
        assert tuple(orders[row].tolist()) == best
        assert float(least[row]) == pytest.approx(means[best], rel=1e-5)
    least.sum().backward()
    assert costs.grad is not None and torch.allclose(costs.grad.sum((1, 2)), torch.ones(20))


def test_costs_that_are_not_finite_reach_the_loss() -> None:
    costs = torch.tensor([[[torch.nan, torch.nan], [1.0, 2.0]], [[3.0, 1.0], [1.0, 3.0]]])
    least, orders = best_assignment(costs)
    assert least.isnan().tolist() == [True, False] and orders[1].tolist() == [1, 0]


def test_the_best_order_is_that_of_torchmetrics(noise: torch.Generator) -> None:
    answers, sources = torch.randn(4, 3, 500, generator=noise), torch.randn(4, 3, 500, generator=noise)
    answers += sources[:, [2, 0, 1]]
    values, theirs = permutation_invariant_training(answers, sources, scale_invariant_signal_distortion_ratio)
    table = torch.stack(
        [
            torch.stack([-scale_invariant_signal_distortion_ratio(answer, source) for source in sources.unbind(1)], 1)
            for answer in answers.unbind(1)
        ],
        1,
    )
    least, orders = best_assignment(table)
    assert torch.equal(orders, theirs) and torch.allclose(-least, values, atol=1e-4)
    assert orders.tolist() == [[1, 2, 0]] * 4
    ordered = in_order(answers, orders)
    assert torch.equal(ordered[:, 0], answers[:, 1])
