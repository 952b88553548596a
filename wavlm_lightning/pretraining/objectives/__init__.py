"""Pre-training objectives (masked prediction, contrastive, regression, penalty, CTC), which a run may sum.

Reading order: `base` (the contract), `teacher` (moving averages), `masked_prediction`, `masked_ctc`, `contrastive` with
`quantiser`, `feature_penalty`, `log_mel`.
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
from wavlm_lightning.pretraining.objectives.feature_penalty import FeaturePenalty
from wavlm_lightning.pretraining.objectives.log_mel import LogMelRegression
from wavlm_lightning.pretraining.objectives.masked_ctc import MaskedCtc
from wavlm_lightning.pretraining.objectives.masked_prediction import MaskedPrediction
from wavlm_lightning.pretraining.objectives.teacher import Teacher


def published() -> list[Objective]:
    """New objectives of WavLM, as a configuration that names none trains with."""
    return [MaskedPrediction(), FeaturePenalty()]


__all__ = [
    "ContrastivePrediction",
    "FeaturePenalty",
    "LayerObjective",
    "LogMelRegression",
    "MaskedCtc",
    "MaskedPrediction",
    "Objective",
    "ObjectiveCost",
    "PassCost",
    "Prediction",
    "Teacher",
    "View",
    "published",
]
