"""Networks of conversion: sizes, padding, teacher forcing against generation, divergences, units."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.distributions import Normal as TorchNormal
from torch.distributions import kl_divergence

from wavlm_lightning.audio import synthesis_mel
from wavlm_lightning.data.corpus import Corpus
from wavlm_lightning.encoder import Layers
from wavlm_lightning.system.errors import UserError
from wavlm_lightning.tasks.components.conversion.any_to_one import AnyToOneNetwork
from wavlm_lightning.tasks.components.conversion.content_vae import ContentVae, Normal
from wavlm_lightning.tasks.components.conversion.mel_scale import MelScale
from wavlm_lightning.tasks.components.conversion.units import FrameUnits
from wavlm_lightning.upstreams import Fbank


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_it_has_the_parameters_of_superb_sg() -> None:
    with torch.device("meta"):
        network = AnyToOneNetwork(768)
    assert sum(parameter.numel() for parameter in network.parameters()) == 28_641_360  # 28.64 M


@torch.no_grad()
@pytest.mark.parametrize("noisy", [False, True])
def test_what_it_generates_is_what_it_says_after_its_own_answers(noisy: bool) -> None:
    torch.manual_seed(0)
    network = AnyToOneNetwork(6, 8, noisy).eval()
    features, lengths = draw(2, 20, 6), torch.tensor([20, 13])
    answers = network.generated(features, lengths)
    assert torch.equal(answers, network.generated(features, lengths))
    (alone,) = network.generated(features[1:, :13], lengths[1:])
    assert torch.allclose(alone, answers[1, :13], atol=1e-5)
    forced = network(features, lengths, answers)
    if noisy:  # half of the prenet is dropped when it generates
        assert not torch.allclose(forced, answers, atol=1e-3)
    else:
        assert torch.allclose(forced, answers, atol=1e-5)
        # The true frame that it is about to say has no part in it.
        changed = answers.clone()
        changed[:, 7:] += 1
        later = network(features, lengths, changed)
        assert torch.allclose(later[:, :8], forced[:, :8], atol=1e-6) and not torch.allclose(later[:, 8], forced[:, 8])


def test_divergences_are_those_of_torch() -> None:
    one, other = (Normal(draw(3, 5, seed=n), draw(3, 5, seed=n + 2)) for n in (1, 2))
    as_torch = [TorchNormal(each.mean, (0.5 * each.log_variance).exp()) for each in (one, other)]
    assert torch.allclose(one.divergence(other), kl_divergence(*as_torch).sum(-1), rtol=1e-4)
    assert torch.allclose(one.divergence(), kl_divergence(as_torch[0], TorchNormal(0.0, 1.0)).sum(-1), rtol=1e-4)
    assert torch.allclose(one.divergence(one), torch.zeros(3), atol=1e-6)


@torch.no_grad()
def test_content_voice_and_frames_do_not_hear_padding() -> None:
    torch.manual_seed(0)
    network = ContentVae(4, hidden=6, content=3, voice=2).eval()
    mel, lengths = draw(2, 15, 80), torch.tensor([15, 9])
    units = torch.arange(30).reshape(2, 15) % 4
    for of_rows, of_one in (
        (network.voice_of(mel, lengths).mean[1], network.voice_of(mel[1:, :9], lengths[1:]).mean[0]),
        (network.content_of(mel, lengths).mean[1, :9], network.content_of(mel[1:, :9], lengths[1:]).mean[0]),
        (network.prior_of(units, lengths).mean[1, :9], network.prior_of(units[1:, :9], lengths[1:]).mean[0]),
    ):
        assert torch.allclose(of_rows, of_one, atol=1e-5)
    # A constant added to every frame says nothing about the content, but about the voice.
    louder = mel + draw(1, 1, 80, seed=3)
    assert not torch.allclose(network.voice_of(louder, lengths).mean, network.voice_of(mel, lengths).mean, atol=1e-3)


def test_units_are_the_nearest_means() -> None:
    upstream = Fbank(cmvn=False)
    units, frames = FrameUnits(0, 3, upstream), draw(60, 240).numpy()
    units.fit(frames, seed=1)
    hidden = torch.from_numpy(frames).reshape(1, 2, 30, 240)
    found = units(Layers(hidden, torch.tensor([30, 30]), 100.0))
    expected = np.linalg.norm(frames[:, None] - units.means.numpy()[None], axis=2).argmin(1).reshape(2, 30)
    assert found.tolist() == expected.tolist() and set(found.unique().tolist()) == {0, 1, 2}
    with pytest.raises(UserError, match=r"model\.units 3: the training split has 2 frames"):
        units.fit(frames[:2], seed=1)
    with pytest.raises(UserError, match=r"model\.layer 4"):
        FrameUnits(4, 3, upstream)


def test_the_frames_of_a_corpus_have_mean_0_and_variance_1(tiny) -> None:
    split, scale = Corpus.open(tiny / "voices").split("train_1"), MelScale(320)
    scale.fit(split, factor=0.5)
    waveforms = [torch.from_numpy(waveform)[None] * 0.5 for _, waveform, _ in split.utterances()]
    frames = torch.cat([scale.of(waveform)[0] for waveform in waveforms])
    assert torch.allclose(frames.mean(0), torch.zeros(80), atol=1e-3)
    assert torch.allclose(frames.std(0), torch.ones(80), atol=1e-2)
    assert torch.allclose(scale.restored(scale.of(waveforms[0])), synthesis_mel(waveforms[0]), atol=1e-3)
    assert scale.count(torch.tensor([waveforms[0].shape[1]])) == scale.of(waveforms[0]).shape[1]
