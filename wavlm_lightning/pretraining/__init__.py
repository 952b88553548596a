"""Training the encoder: masking, utterance mixing, objectives."""

from wavlm_lightning.augment.mixing import UtteranceMixing
from wavlm_lightning.augment.span_masking import SpanMasking
from wavlm_lightning.pretraining.data import PretrainingData
from wavlm_lightning.pretraining.module import WavLMPretraining
from wavlm_lightning.pretraining.objectives import (
    ContrastivePrediction,
    FeaturePenalty,
    LogMelRegression,
    MaskedPrediction,
    Objective,
)
from wavlm_lightning.pretraining.recipe import CodebookRecipe, Recipe

__all__ = [
    "CodebookRecipe",
    "ContrastivePrediction",
    "FeaturePenalty",
    "LogMelRegression",
    "MaskedPrediction",
    "Objective",
    "PretrainingData",
    "Recipe",
    "SpanMasking",
    "UtteranceMixing",
    "WavLMPretraining",
]
