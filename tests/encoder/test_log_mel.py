"""The log-mel front-end: its frames against torchaudio's, the grid, batches, precisions, gradients."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torchaudio.functional import melscale_fbanks

from tests.encoder.encoder_helpers import noise, padded, shake
from wavlm_lightning.encoder import WavLM, WavLMConfig
from wavlm_lightning.encoder.log_mel import AT_ONCE, FLOOR, LogMelFrontEnd, log_mel_frames, transform_size

SMALL = {"dim": 32, "ffn_dim": 48, "layers": 2, "heads": 4, "pos_conv_kernel": 8, "pos_conv_groups": 4}


def encoder(**overrides: object) -> WavLM:
    torch.manual_seed(0)
    made = WavLM(WavLMConfig.preset("tiny_mel", **{**SMALL, "mel_bins": 20, "mel_channels": [24, 24, 16], **overrides}))
    shake(made)
    return made.eval()


def reference(waveform: Tensor, bins: int) -> Tensor:
    """Window by window in float64, with torchaudio's filters."""
    size = transform_size(bins)
    filters = melscale_fbanks(size // 2 + 1, 20.0, 8000.0, bins, 16_000, norm=None, mel_scale="htk").double()
    longer = F.pad(waveform.double(), (80, 400))
    rows = []
    for frame in range((len(waveform) - 400) // 320 + 1):
        for start in (320 * frame, 320 * frame + 160):  # in the padded waveform: 80 before and after the grid window
            heard = longer[start : start + 400] * torch.hann_window(400, dtype=torch.float64)
            rows.append((torch.fft.fft(heard, size)[: size // 2 + 1].abs() ** 2 @ filters).clamp(min=FLOOR).log())
    return torch.stack(rows)


@pytest.mark.parametrize("bins", [20, 80, 128])
@pytest.mark.parametrize("samples", [400, 719, 720, 5_000])
def test_frames_are_those_of_windows_beside_the_grid(bins: int, samples: int):
    waveform = noise(1, samples)
    torch.testing.assert_close(
        log_mel_frames(waveform, bins)[0].double(), reference(waveform[0], bins), atol=2e-3, rtol=1e-3
    )


@pytest.mark.parametrize("bins", [8, 80, 81, 128, 256])
def test_no_filter_is_empty(bins: int):
    def filters(size: int) -> Tensor:
        return melscale_fbanks(size // 2 + 1, 20.0, 8000.0, bins, 16_000)

    size = transform_size(bins)
    assert (filters(size).sum(0) > 0).all()
    if size > 512:
        with pytest.warns(UserWarning, match="all zero values"):
            filters(size // 2)


def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch):
    waveforms = noise(3, 9_000)
    whole = log_mel_frames(waveforms, 40)
    for windows in (7, 60, 120):
        monkeypatch.setitem(AT_ONCE, "cpu", windows)
        torch.testing.assert_close(log_mel_frames(waveforms, 40), whole, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("norm", ["level", "bins", "none"])
@pytest.mark.parametrize(
    "convolutions",
    [
        {"mel_channels": []},
        *(
            {"mel_channels": channels, "conv_norm": norm}
            for channels in ([16], [24, 24, 16])
            for norm in ("group", "layer")
        ),
    ],
    ids=str,
)
def test_padding_changes_nothing(norm: str, convolutions: dict[str, object]):
    model = encoder(mel_norm=norm, **convolutions)
    waveforms, lengths = noise(4, 9_000), torch.tensor([9_000, 8_999, 4_567, 400])
    together = model(padded(waveforms, lengths) + 7 * (padded(waveforms, lengths) == 0), lengths)
    for row, samples in enumerate(lengths.tolist()):
        alone = model(waveforms[row : row + 1, :samples]).hidden[:, 0]
        torch.testing.assert_close(together.hidden[:, row, : alone.shape[1]], alone, atol=3e-5, rtol=1e-4)


@pytest.mark.parametrize(("norm", "unchanged"), [("level", True), ("bins", True), ("none", False)])
def test_the_level_of_a_recording(norm: str, unchanged: bool):
    front_end = LogMelFrontEnd(WavLMConfig.preset("tiny_mel", mel_norm=norm))
    waveforms = noise(1, 8_000)
    difference = (front_end(waveforms) - front_end(3 * waveforms)).abs().max().item()
    assert (difference < 1e-4) is unchanged


def test_bf16_autocast_leaves_the_logarithms_in_fp32():
    front_end, waveforms = LogMelFrontEnd(WavLMConfig.preset("tiny_mel", mel_channels=[])), noise(2, 8_000)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(front_end(waveforms), front_end(waveforms.double()))
        assert front_end(waveforms).dtype == torch.float32


@pytest.mark.parametrize("channels", [[], [24, 16]])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_weights_in_any_precision(channels: list[int], dtype: torch.dtype):
    model, waveforms = encoder(mel_channels=channels), noise(2, 8_000)
    expected, found = model(waveforms).hidden, model.to(dtype)(waveforms).hidden  # waveforms in fp32
    assert found.dtype == dtype
    assert F.cosine_similarity(found.float(), expected, dim=-1).min() > 0.99


@pytest.mark.parametrize("factor", [0.0, 0.5, 1.0])
def test_gradients_of_the_convolutions_are_scaled(factor: float):
    def gradient(factor: float) -> Tensor | None:
        model = encoder(feature_grad_mult=factor)
        features, _ = model.features(noise(2, 4_000))
        if features.requires_grad:
            features.square().mean().backward()
        return model.feature_extractor.conv_layers[0].conv.weight.grad

    whole, ours = gradient(1.0), gradient(factor)
    assert whole is not None
    assert ours is None if factor == 0 else torch.allclose(ours, factor * whole)


def test_a_gradient_reaches_the_waveform_that_needs_one():
    waveforms = noise(1, 1_040).double().requires_grad_()  # three frames and a pause between them
    log_mel_frames(waveforms, 20)[0, :2].sum().backward()
    seen = waveforms.grad[0].abs() > 0
    assert seen[1:479].all()
    assert not seen[480:].any()


def test_only_weights_are_in_a_checkpoint(tmp_path):
    model = encoder()
    assert [name for name in model.state_dict() if name.startswith("feature_extractor.")] == [
        f"feature_extractor.conv_layers.{index}.conv.{kind}" for index in range(3) for kind in ("weight", "bias")
    ]
    assert not list(encoder(mel_channels=[]).feature_extractor.state_dict())
