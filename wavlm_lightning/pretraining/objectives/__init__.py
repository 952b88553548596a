"""What the encoder is asked to predict; several objectives may be summed."""

from wavlm_lightning.pretraining.objectives.base import LayerObjective, Objective, Prediction
from wavlm_lightning.pretraining.objectives.contrastive import ContrastivePrediction
from wavlm_lightning.pretraining.objectives.feature_penalty import FeaturePenalty
from wavlm_lightning.pretraining.objectives.log_mel import LogMelRegression
from wavlm_lightning.pretraining.objectives.masked_prediction import MaskedPrediction

__all__ = [
    "ContrastivePrediction",
    "FeaturePenalty",
    "LayerObjective",
    "LogMelRegression",
    "MaskedPrediction",
    "Objective",
    "Prediction",
]
