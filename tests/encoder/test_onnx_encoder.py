"""The encoder as a graph: the same hidden states as the encoder itself, alone and in padded batches."""

from __future__ import annotations

import pytest
import torch

from wavlm_lightning.encoder import WavLM, WavLMConfig
from wavlm_lightning.encoder.exportable import ExportableEncoder

SHAPE = {"conv_channels": [16] * 7, "dim": 32, "ffn_dim": 48, "layers": 2, "heads": 4, "max_distance": 90}
KINDS = [
    {},
    {"pre_norm": True, "conv_norm": "layer", "normalize_waveform": True},
    {"position_bias": "ungated", "conv_bias": True},
    {"position_bias": "none"},
    {"batch_invariant": False},
    {"front_end": "log_mel", "mel_bins": 20},
    {"front_end": "log_mel", "mel_bins": 20, "mel_channels": [16, 16, 24], "conv_norm": "layer", "mel_norm": "bins"},
]


@pytest.mark.parametrize("overrides", KINDS)
def test_it_computes_what_the_encoder_computes(overrides):
    torch.manual_seed(0)
    shape = {**SHAPE, **overrides}
    if "front_end" in overrides:
        del shape["conv_channels"]
    encoder = WavLM(WavLMConfig.preset("tiny", **shape)).eval().requires_grad_(False)
    for parameter in encoder.parameters():  # norms of ones and biases of zeros would hide mistakes
        parameter.add_(0.1 * torch.randn_like(parameter))
    graph = ExportableEncoder(encoder, 1e-5 if encoder.config.normalize_waveform else None)
    for rows, samples in ((1, 400), (1, 9000), (3, 48_000)):  # the last beyond max_distance
        lengths = torch.randint(400, samples + 1, (rows,))
        lengths[0] = samples
        waveforms = 0.1 * torch.randn(rows, samples)  # the padding is noise: it must not be heard
        if not encoder.config.batch_invariant:
            lengths[:] = samples
        wanted = encoder(waveforms, lengths)
        hidden, frames = graph(waveforms, lengths)
        assert torch.equal(frames, wanted.lengths)
        assert (hidden - wanted.hidden).abs().max() < 2e-5


@pytest.mark.slow
def test_log_mel_frames_are_traced_for_any_batch_and_length():
    config = WavLMConfig.preset("tiny_mel", dim=32, ffn_dim=48, layers=1, heads=4, mel_channels=[16, 16])
    encoder = WavLM(config).eval().requires_grad_(False)
    free = torch.export.Dim.AUTO
    example = (0.1 * torch.randn(3, 6_720), torch.tensor([6_720, 5_000, 400]))
    traced = torch.export.export(
        ExportableEncoder(encoder, None),
        example,
        dynamic_shapes={"waveforms": {0: free, 1: free}, "lengths": {0: free}},
    ).module()
    for rows, samples in ((1, 720), (1, 9_000), (4, 16_033)):
        waveforms, lengths = 0.1 * torch.randn(rows, samples), torch.full((rows,), samples)
        assert (traced(waveforms, lengths)[0] - encoder(waveforms, lengths).hidden).abs().max() < 2e-5


def test_it_has_no_parameters_of_its_own():
    encoder = WavLM(WavLMConfig.preset("tiny", **SHAPE)).eval()
    graph = ExportableEncoder(encoder, None)
    assert {id(p) for p in graph.parameters()} == {id(p) for p in encoder.parameters()}
