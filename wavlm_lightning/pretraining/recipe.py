"""The section `recipe` of a pre-training configuration: for whom it was written, and which labels it needs."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class CodebookRecipe:
    """How the labels of a configuration are made.

    Attributes:
        clusters: size of the codebook.
        encoder: the pre-training configuration whose encoder is clustered, by its name in `configs/pretrain` or a path;
            None clusters MFCC.
        checkpoint: an encoder that is there already is clustered: a Hugging Face folder, a unilm `.pt`, a run; instead of
            `encoder`.
        layer: which layer of that encoder, from 1.
        share: of the corpus that k-means sees; HuBERT takes all of it for MFCC and 10 % for layers.
        level_normalised: see `wavlm codebook fit --level-normalised`.
        restarts: initialisations of k-means.
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
    """What a configuration assumes; `wavlm plan` and `wavlm recipe` read it, training does not.

    Attributes:
        hours: audio of the corpus it was written for.
        gpus: processes it was written for; with another number keep `gpus` x `accumulate_grad_batches` constant.
        gpu: their kind.
        codebook: how its labels are made; None if it needs none.
    """

    hours: float
    gpus: int = 1
    gpu: str = "a100"
    codebook: CodebookRecipe | None = None
