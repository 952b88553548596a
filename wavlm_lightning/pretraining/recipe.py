"""The section `recipe` of a pre-training configuration: corpus size, GPUs, how its labels are made, what follows it."""

from __future__ import annotations

from dataclasses import dataclass, field


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
class FineTuningRecipe:
    """A run of `wavlm fit` on the exported encoder, the average of its checkpoints if wanted, and the test.

    Attributes:
        config: the configuration of a task, `configs/finetune/...` or a path, also beside the file that names it.
        start_from: name of an earlier fine-tuning of this recipe whose weights the run begins with (`model.start_from`).
        folds: of a corpus with folds (`FoldData`), how many are tested, a run each; 0 for other data.
        average: how many of the last checkpoints are averaged into what is tested and what others start from; 0 for none.
        utterance_seconds: mean length of an utterance, for `wavlm plan`; only read where the batch is given in utterances.
        gpus: number of processes that the configuration is written for, for `wavlm plan`.
    """

    config: str
    start_from: str | None = None
    folds: int = 0
    average: int = 0
    utterance_seconds: float | None = None
    gpus: int = 1


@dataclass(frozen=True)
class Recipe:
    """What a configuration assumes. `wavlm plan` and `wavlm recipe` read it; training ignores it.

    Attributes:
        hours: hours of audio of the corpus.
        gpus: number of processes; with another number keep `gpus` x `accumulate_grad_batches` constant.
        gpu: kind of GPU.
        codebook: how the labels are made; None if the configuration needs none.
        label_sizes: classes of each label set, where `data.labels` names several: for the cost of their objectives.
        fine_tuning: what the exported encoder is fine-tuned for afterwards, in this order.
    """

    hours: float
    gpus: int = 1
    gpu: str = "a100"
    codebook: CodebookRecipe | None = None
    label_sizes: dict[str, int] = field(default_factory=dict)
    fine_tuning: list[FineTuningRecipe] = field(default_factory=list)
