"""Pre-training on log-mel frames: exact resume, the encoder of a run, a teacher, what cannot be."""

from __future__ import annotations

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from test_pretraining_runs import SMALL, data, fit, module

from wavlm_lightning.encoder import WavLM, WavLMConfig
from wavlm_lightning.pretraining import FeaturePenalty, LogMelRegression, MaskedPrediction
from wavlm_lightning.pretraining.objectives import Teacher
from wavlm_lightning.system.errors import UserError
from wavlm_lightning.upstreams.wavlm import load_encoder

SIZES = {name: value for name, value in SMALL.items() if name != "conv_channels"}
CONVOLUTIONS = {**SIZES, "mel_bins": 20, "mel_channels": [24, 16]}


def log_mel(**changes):
    return module(**{"encoder": "tiny_mel", "encoder_overrides": CONVOLUTIONS, **changes})


@pytest.mark.parametrize("channels", [[24, 16], []])
def test_resume_is_exact_and_the_encoder_is_read_from_the_run(tiny, tmp_path, channels):
    def made():
        penalty = [FeaturePenalty()] if channels else []
        objectives = [MaskedPrediction(final_dim=16), LogMelRegression(), *penalty]
        return log_mel(objectives=objectives, encoder_overrides={**CONVOLUTIONS, "mel_channels": channels})

    saver = ModelCheckpoint(tmp_path, filename="{step}", every_n_train_steps=1, save_top_k=-1)
    model = made()
    before = {name: value.clone() for name, value in model.encoder.state_dict().items()}
    whole = fit(model, data(tiny), 4, callbacks=[saver])
    resumed = made()
    assert fit(resumed, data(tiny), 4, tmp_path / "step=2.ckpt").losses == whole.losses[2:]
    encoder = load_encoder(tmp_path / "step=4.ckpt")
    assert encoder.config == model.encoder.config
    for name, value in model.encoder.state_dict().items():
        assert torch.equal(encoder.state_dict()[name], value)
        assert torch.equal(resumed.encoder.state_dict()[name], value)
        assert not torch.equal(before[name], value)


def test_frozen_convolutions_stay_as_they_are(tiny):
    objectives = [MaskedPrediction(final_dim=16)]
    model = log_mel(objectives=objectives, encoder_overrides={**CONVOLUTIONS, "feature_grad_mult": 0.0})
    before = [value.clone() for value in model.encoder.feature_extractor.parameters()]
    fit(model, data(tiny), 1)
    after = list(model.encoder.feature_extractor.parameters())
    assert all(torch.equal(old, new) for old, new in zip(before, after, strict=True))


def test_a_penalty_of_features_without_weights_is_refused(tiny):
    with pytest.raises(UserError, match=r"FeaturePenalty has nothing to keep small, .*; remove it"):
        fit(log_mel(encoder_overrides={**CONVOLUTIONS, "mel_channels": []}), data(tiny), 1)


@pytest.mark.parametrize("channels", [[24, 16], []])
def test_a_teacher_shares_log_mel_frames(channels):
    encoder = WavLM(WavLMConfig.preset("tiny_mel", **{**CONVOLUTIONS, "mel_channels": channels}))
    teacher = Teacher(encoder)
    teacher.follow(encoder, 0.5)
    assert teacher.shares_convolutions
    assert teacher.encoder.feature_extractor is None
