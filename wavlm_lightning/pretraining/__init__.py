"""Training the encoder: masking, utterance mixing, objectives."""

from wavlm_lightning.pretraining.data import PretrainingData
from wavlm_lightning.pretraining.masking import SpanMasking
from wavlm_lightning.pretraining.mixing import UtteranceMixing
from wavlm_lightning.pretraining.module import WavLMPretraining
from wavlm_lightning.pretraining.objectives import FeaturePenalty, LogMelRegression, MaskedPrediction, Objective

__all__ = [
    "FeaturePenalty",
    "LogMelRegression",
    "MaskedPrediction",
    "Objective",
    "PretrainingData",
    "SpanMasking",
    "UtteranceMixing",
    "WavLMPretraining",
]
