"""Pre-training objectives (masked prediction, contrastive, regression, penalty, CTC, teachers), which a run may sum.

Reading order: `base` (the contract), `teacher` (moving averages), `masked_prediction`, `masked_ctc`, `contrastive` with
`quantiser`, `feature_penalty`, `log_mel`; `self_distillation` with `data2vec` and `dinosr`, whose targets a teacher makes.
May import from `encoder`, `audio`, `data.batch`, `system` and `pretraining.flops`; tests are in `tests/pretraining`.
"""

from wavlm_lightning.pretraining.objectives.base import (
    LayerObjective,
    Objective,
    ObjectiveCost,
    PassCost,
    Prediction,
    View,
)
from wavlm_lightning.pretraining.objectives.contrastive import ContrastivePrediction
from wavlm_lightning.pretraining.objectives.data2vec import Data2Vec
from wavlm_lightning.pretraining.objectives.dinosr import DinoSR
from wavlm_lightning.pretraining.objectives.feature_penalty import FeaturePenalty
from wavlm_lightning.pretraining.objectives.log_mel import LogMelRegression
from wavlm_lightning.pretraining.objectives.masked_ctc import MaskedCtc
from wavlm_lightning.pretraining.objectives.masked_prediction import MaskedPrediction
from wavlm_lightning.pretraining.objectives.self_distillation import SelfDistillation
from wavlm_lightning.pretraining.objectives.teacher import Teacher


def published() -> list[Objective]:
    """New objectives of WavLM, as a configuration that names none trains with."""
    return [MaskedPrediction(), FeaturePenalty()]


__all__ = [
    "ContrastivePrediction",
    "Data2Vec",
    "DinoSR",
    "FeaturePenalty",
    "LayerObjective",
    "LogMelRegression",
    "MaskedCtc",
    "MaskedPrediction",
    "Objective",
    "ObjectiveCost",
    "PassCost",
    "Prediction",
    "SelfDistillation",
    "Teacher",
    "View",
    "published",
]
