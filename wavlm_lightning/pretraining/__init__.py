"""Pre-training the encoder: the LightningModule, its data, the objectives it sums, and the watch over its health.

Reading order:

1. `module`: `WavLMPretraining`, one step = mixing, masking, encoder, objectives (`training_step`).
2. `objectives/`: masked prediction, CTC of masked regions, contrastive prediction, log-mel regression, feature penalty; teachers
   and views, data2vec and DinoSR with them.
3. `data`: corpora, labels and the plan of an epoch; `crops`: what one batch holds.
4. `copies`: several masks a crop, an encoder on visible frames alone. `updates`: normalising, clipping and skipping
   gradients, AdamW. `health`: speed, collapse.
5. `head_file`: the pre-training head beside an exported encoder. `recipe`: all stages of a published pre-training.
   `flops` and `memory`: cost of a step, for `wavlm plan`.

Imports `encoder`, `augment`, `data`, `codebooks`, `upstreams`, `metrics`, `training` and `system`; `tasks` never imports it.
Tests: `tests/pretraining`.
"""

from wavlm_lightning.augment.mixing import UtteranceMixing
from wavlm_lightning.augment.span_masking import SpanMasking
from wavlm_lightning.pretraining.copies import DecoderSizes, MaskedCopies
from wavlm_lightning.pretraining.data import PretrainingData
from wavlm_lightning.pretraining.module import WavLMPretraining
from wavlm_lightning.pretraining.objectives import (
    ContrastivePrediction,
    Data2Vec,
    DinoSR,
    FeaturePenalty,
    LogMelRegression,
    MaskedCtc,
    MaskedPrediction,
    Objective,
)
from wavlm_lightning.pretraining.recipe import CodebookRecipe, Recipe

__all__ = [
    "CodebookRecipe",
    "ContrastivePrediction",
    "Data2Vec",
    "DecoderSizes",
    "DinoSR",
    "FeaturePenalty",
    "LogMelRegression",
    "MaskedCopies",
    "MaskedCtc",
    "MaskedPrediction",
    "Objective",
    "PretrainingData",
    "Recipe",
    "SpanMasking",
    "UtteranceMixing",
    "WavLMPretraining",
]
