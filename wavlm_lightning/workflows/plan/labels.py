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

MFCC_RATE = 6_800.0  # seconds of audio per second whose MFCC one CPU core computes (torchaudio, measured)
UTTERANCE_SECONDS = 12.0  # typical length of a labelled utterance; it affects only the cost of attention


@dataclass(frozen=True)
class Labelling:
    """Cost of codebook and labels of one configuration."""

    source: str  # name of the clustered features
    clusters: int
    fit_hours: float  # audio that k-means sees
    wanted_hours: float  # audio of the share that it should see; more than `fit_hours` if the memory is too small
    memory_gib: float  # memory that would hold the features of the whole share
    apply_hours: float  # audio that is labelled
    fit_flops: float  # operations of the encoder for k-means; 0 for MFCC
    apply_flops: float  # operations of the encoder for the labels; 0 for MFCC
    cpu_hours: float  # of one core for MFCC; k-means itself is not counted
    gpu_hours: float | None  # of one GPU for the encoder; None without a GPU


def labelling_cost(
    stage: Configuration, before: WavLMConfig | None, hours: float, assumptions: Assumptions
) -> Labelling | None:
    """The cost of labelling `hours` of audio with the encoder `before`, that of the previous configuration of the chain."""
    codebook = stage.recipe.codebook
    if codebook is None:
        return None
    wanted, source, numbers = codebook.share * hours, "MFCC", 39 * 100.0  # 39 numbers, 100 times a second
    config: WavLMConfig | None = None
    if codebook.layer is not None:
        source = f"layer {codebook.layer} of {Path(codebook.encoder or codebook.checkpoint or '').stem}"
        if codebook.checkpoint is not None:
            config, _ = encoder_shape(codebook.checkpoint, {}, f"{stage.path}: recipe.codebook.checkpoint")
        else:
            assert before is not None  # the chain puts the configuration of that encoder first
            config = before
        if codebook.layer > config.layers:
            where = f"{stage.path}: recipe.codebook.layer"
            raise UserError(f"{where} is {codebook.layer}, but that encoder has {config.layers}")
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
