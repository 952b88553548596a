"""The cost of a configuration's codebook labels."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from wavlm_lightning.encoder import WavLMConfig
from wavlm_lightning.encoder.config import SAMPLE_RATE
from wavlm_lightning.pretraining.flops import encoder_flops
from wavlm_lightning.system.errors import UserError
from wavlm_lightning.workflows.plan.assumptions import Assumptions, encoder_shape, find_hardware
from wavlm_lightning.workflows.recipe.chain import Configuration

MFCC_RATE = 6_800.0
"""Seconds of audio per second whose MFCC one CPU core computes (torchaudio, measured)."""
UTTERANCE_SECONDS = 12.0
"""Typical length of a labelled utterance; it affects only the cost of attention."""


@dataclass(frozen=True)
class Labelling:
    """Codebook and labels of one configuration.

    Attributes:
        source: name of the clustered features.
        clusters: size of the codebook.
        fit_hours: audio that k-means sees.
        wanted_hours: audio of the share that k-means should see; more than `fit_hours` if the memory is too small.
        memory_gib: memory that would hold the features of the whole share.
        apply_hours: audio that is labelled.
        fit_flops: operations of the encoder for k-means; 0 for MFCC.
        apply_flops: operations of the encoder for the labels; 0 for MFCC.
        cpu_hours: hours of one core for MFCC; k-means itself is not counted.
        gpu_hours: hours of one GPU for the encoder; None without a GPU.
    """

    source: str
    clusters: int
    fit_hours: float
    wanted_hours: float
    memory_gib: float
    apply_hours: float
    fit_flops: float
    apply_flops: float
    cpu_hours: float
    gpu_hours: float | None


def labelling_cost(
    stage: Configuration, before: WavLMConfig | None, hours: float, assumptions: Assumptions
) -> Labelling | None:
    """The cost of the labels of a configuration; None if it needs none.

    Args:
        stage: the configuration.
        before: the encoder of the previous configuration of the chain.
        hours: audio of the corpus.
        assumptions: see `Assumptions`.

    Raises:
        UserError: the clustered encoder lacks the layer.
    """
    codebook = stage.recipe.codebook
    if codebook is None:
        return None
    wanted = codebook.share * hours
    if codebook.layer is None:
        source, config, numbers = "MFCC", None, 39 * 100.0
    else:
        source = f"layer {codebook.layer} of {Path(codebook.encoder or codebook.checkpoint or '').stem}"
        if codebook.checkpoint is not None:
            config, _ = encoder_shape(codebook.checkpoint, {}, f"{stage.path}: recipe.codebook.checkpoint")
        else:
            assert before is not None  # the chain puts the configuration of that encoder first
            config = before
        if codebook.layer > config.layers:
            raise UserError(
                f"{stage.path}: recipe.codebook.layer is {codebook.layer}, but that encoder has {config.layers}"
            )
        config = replace(config, layers=codebook.layer)
        numbers = config.dim * config.frame_rate
    gib_an_hour = 3600 * 4 * numbers / 2**30
    seen = min(wanted, assumptions.memory_gib / gib_an_hour)
    flops_an_hour, cpu_hours = 0.0, (seen + hours) / MFCC_RATE
    gpu_hours: float | None = 0.0
    if config is not None:
        samples = round(UTTERANCE_SECONDS * SAMPLE_RATE)
        flops_an_hour, cpu_hours = encoder_flops(config, 3600 / UTTERANCE_SECONDS, samples).forward, 0.0
        _, gpu = find_hardware(stage, assumptions)
        gpu_hours = None if gpu is None else (seen + hours) * flops_an_hour / (gpu.peak * assumptions.mfu) / 3600
    return Labelling(
        source=source,
        clusters=codebook.clusters,
        fit_hours=seen,
        wanted_hours=wanted,
        memory_gib=wanted * gib_an_hour,
        apply_hours=hours,
        fit_flops=seen * flops_an_hour,
        apply_flops=hours * flops_an_hour,
        cpu_hours=cpu_hours,
        gpu_hours=gpu_hours,
    )
