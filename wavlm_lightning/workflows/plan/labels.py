"""The cost of a configuration's codebook labels."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from wavlm_lightning.codebooks.projection import STATISTICS_FRAMES
from wavlm_lightning.encoder import WavLMConfig
from wavlm_lightning.encoder.config import SAMPLE_RATE
from wavlm_lightning.pretraining.flops import encoder_flops
from wavlm_lightning.system.errors import UserError
from wavlm_lightning.workflows.codebook import DIM
from wavlm_lightning.workflows.plan.assumptions import Assumptions, encoder_shape, find_hardware
from wavlm_lightning.workflows.recipe.chain import Configuration, teacher

MFCC_RATE = 6_800.0  # seconds of audio per second whose MFCC one CPU core computes (torchaudio, measured)
BEAM_RATE = (
    110.0  # seconds of audio per second that one CPU core decodes with a phone n-gram (torchaudio, beam 20, measured)
)
UTTERANCE_SECONDS = 12.0  # typical length of a labelled utterance; it affects only the cost of attention


@dataclass(frozen=True)
class Labelling:
    """Cost of codebook and labels of one configuration."""

    source: str  # name of the clustered features, or of the phones
    clusters: int | None  # None for phones
    fit_hours: float  # audio that k-means sees
    wanted_hours: float  # audio of the share that it should see; more than `fit_hours` if the memory is too small
    memory_gib: float  # memory that would hold the features of the whole share
    apply_hours: float  # audio that is labelled
    fit_flops: float  # operations of the encoder for k-means; 0 for MFCC and phones
    apply_flops: float  # operations of the encoder for the labels, or for alignments and decodings; 0 for MFCC
    cpu_hours: float  # of one core for MFCC or a beam search; k-means itself is not counted
    gpu_hours: float | None  # of one GPU for the encoder; None without a GPU

    @property
    def flops(self) -> float:
        """Operations of both."""
        return self.fit_flops + self.apply_flops


@dataclass(frozen=True)
class Decoding:
    """Cost of decoding or aligning audio with a fine-tuned encoder."""

    hours: float  # audio
    flops: float
    cpu_hours: float  # of one core for the beam search; 0 without a language model
    gpu_hours: float | None  # of one GPU; None without a GPU


def decoding_cost(
    stage: Configuration, config: WavLMConfig, hours: float, searched: bool, assumptions: Assumptions
) -> Decoding:
    """The cost of one pass over `hours` of audio, `searched` with a beam or not."""
    flops, gpu_hours = _forward(stage, config, hours, assumptions)
    return Decoding(hours, flops, hours / BEAM_RATE if searched else 0.0, gpu_hours)


def _forward(
    stage: Configuration, config: WavLMConfig, hours: float, assumptions: Assumptions
) -> tuple[float, float | None]:
    """Operations, and hours of one GPU, of the encoder for `hours` of audio."""
    flops = hours * encoder_flops(config, 3600 / UTTERANCE_SECONDS, round(UTTERANCE_SECONDS * SAMPLE_RATE)).forward
    _, gpu = find_hardware(stage, assumptions)
    return flops, None if gpu is None else flops / (gpu.peak * assumptions.mfu) / 3600


def earlier_encoder(stage: Configuration, before: WavLMConfig | None) -> WavLMConfig | None:
    """The encoder that makes the labels of a configuration, or that its teacher fine-tunes; None for MFCC.

    `before` is the encoder of the previous configuration of the chain.
    """
    codebook = stage.recipe.codebook
    if codebook is None or (codebook.encoder is None and codebook.checkpoint is None):
        return None
    if codebook.checkpoint is not None:
        return encoder_shape(codebook.checkpoint, {}, f"{stage.path}: recipe.codebook.checkpoint")[0]
    assert before is not None  # the chain puts the configuration of that encoder first
    return before


def labelling_cost(
    stage: Configuration, before: WavLMConfig | None, hours: float, assumptions: Assumptions
) -> Labelling | None:
    """The cost of labelling `hours` of audio with the encoder `before`, that of the previous configuration of the chain."""
    codebook = stage.recipe.codebook
    if codebook is None:
        return None
    wanted, source, dim, rate = codebook.share * hours, "MFCC", 39, 100.0
    if codebook.features == "context":
        source, dim, rate = "log-mel with context", DIM["kmeans"], 50.0
    config, task = earlier_encoder(stage, before), teacher(stage)
    name = Path(codebook.encoder or codebook.checkpoint or "").stem if task is None else task.name
    if codebook.kind == "phones":
        assert config is not None  # the chain refuses phones without an encoder
        passes = decoding_cost(stage, config, hours, codebook.language_model is not None, assumptions)
        source = f"phones by {name}"
        return Labelling(source, None, 0.0, 0.0, 0.0, hours, 0.0, passes.flops, passes.cpu_hours, passes.gpu_hours)
    if config is not None:
        layer = config.layers if codebook.layer in ("auto", None) else int(codebook.layer)
        source = f"a layer of {name}" if codebook.layer == "auto" else f"layer {layer} of {name}"
        if layer > config.layers:
            where = f"{stage.path}: recipe.codebook.layer"
            raise UserError(f"{where} is {layer}, but that encoder has {config.layers}")
        config = replace(config, layers=layer)
        dim, rate = config.dim, config.frame_rate
    held = dim if codebook.quantiser != "kmeans" or codebook.dim is None else codebook.dim  # k-means behind a PCA
    gib_an_hour = 3600 * 4 * held * rate / 2**30
    seen = min(wanted, assumptions.memory_gib / gib_an_hour)
    if (
        codebook.quantiser != "kmeans"
    ):  # only a PCA, or means and spreads, are fitted, to at most STATISTICS_FRAMES frames
        seen = wanted = min(seen, STATISTICS_FRAMES / rate / 3600)
    # Utterances are drawn at random, so that only a fit of all of them holds whole shards.
    again = 0.0 if codebook.one_pass and seen >= hours else hours
    fit_flops, apply_flops, cpu_hours = 0.0, 0.0, (seen + again) / MFCC_RATE
    gpu_hours: float | None = 0.0
    if config is not None:
        cpu_hours = 0.0
        fit_flops, fit_hours = _forward(stage, config, seen, assumptions)
        apply_flops, apply_hours = _forward(stage, config, again, assumptions)
        gpu_hours = None if fit_hours is None or apply_hours is None else fit_hours + apply_hours
    return Labelling(
        source=source,
        clusters=codebook.clusters,
        fit_hours=seen,
        wanted_hours=wanted,
        memory_gib=wanted * gib_an_hour,
        apply_hours=hours,
        fit_flops=fit_flops,
        apply_flops=apply_flops,
        cpu_hours=cpu_hours,
        gpu_hours=gpu_hours,
    )
