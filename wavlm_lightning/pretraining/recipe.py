"""The section `recipe` of a pre-training configuration: corpus size, GPUs, and how its labels are made."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class CodebookRecipe:
    """How the labels of a configuration are made.

    Attributes:
        clusters: size of the codebook.
        encoder: the pre-training configuration whose encoder is clustered, a name in `configs/pretrain` or a path; None
            for MFCC.
        checkpoint: an existing encoder to cluster instead: a Hugging Face folder, a unilm `.pt` or a run.
        layer: the layer of that encoder, from 1.
        share: share of the corpus that k-means sees; HuBERT takes all of it for MFCC and 10 % for layers.
        level_normalised: see `wavlm codebook fit --level-normalised`.
        restarts: number of initialisations of k-means.
    """

    clusters: int
    encoder: str | None = None
    checkpoint: str | None = None
    layer: int | None = None
    share: float = 1.0
    level_normalised: bool = False
    restarts: int = 20


@dataclass(frozen=True)
class Recipe:
    """What a configuration assumes. `wavlm plan` and `wavlm recipe` read it; training ignores it.

    Attributes:
        hours: hours of audio of the corpus.
        gpus: number of processes; with another number keep `gpus` x `accumulate_grad_batches` constant.
        gpu: kind of GPU.
        codebook: how the labels are made; None if the configuration needs none.
    """

    hours: float
    gpus: int = 1
    gpu: str = "a100"
    codebook: CodebookRecipe | None = None
