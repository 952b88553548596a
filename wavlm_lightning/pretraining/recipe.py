"""The section `recipe` of a pre-training configuration: corpus size, GPUs, how its labels are made, what follows it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True)
class LanguageModelRecipe:
    """The n-gram model with which a recipe decodes speech that has no transcripts.

    Attributes:
        file: an ARPA file; None to count the transcripts of the labelled corpus.
        order: the longest n-gram that is counted.
        units: what is counted, see `wavlm lm --units`: words, letters, or phones for a recogniser of phones.
        trials: of `wavlm lm tune`, which searches its weights on the validation split; 0 for the default weights.
    """

    file: str | None = None
    order: int = 4
    units: Literal["words", "letters", "phones"] = "words"
    trials: int = 60


@dataclass(frozen=True)
class PseudoLabelRecipe:
    """How the transcripts of a noisy student are made (`wavlm pseudo-label`).

    Attributes:
        teacher: name of an earlier fine-tuning of this recipe, which decodes the unlabelled corpus.
        share: share of the decoded utterances that is kept, the best first.
        language_model: for the decoding; None for the likeliest label of every frame.
        pseudo_share: their share of the audio that the student is trained on, see `TaskData`.
        rounds: students in a row; the first learns from `teacher`, each further one from the one before it, as a run of its own
            (`NAME-round2`) that begins with the same encoder.
        later_share: `share` of the second round and those after it; None for the same.
    """

    teacher: str
    share: float = 0.7
    language_model: LanguageModelRecipe | None = None
    pseudo_share: float = 0.8
    rounds: int = 1
    later_share: float | None = None


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
        pseudo_labels: transcripts of the unlabelled corpus that it is trained on beside the labelled one; None for none.
    """

    config: str
    start_from: str | None = None
    folds: int = 0
    average: int = 0
    utterance_seconds: float | None = None
    gpus: int = 1
    pseudo_labels: PseudoLabelRecipe | None = None


@dataclass(frozen=True)
class CodebookRecipe:
    """How the labels of a configuration are made.

    Attributes:
        clusters: size of the codebook; None for phones.
        encoder: the pre-training configuration whose encoder is clustered, a name in `configs/pretrain` or a path; None
            for `features`.
        checkpoint: an existing encoder to cluster instead: a Hugging Face folder, a unilm `.pt` or a run.
        layer: the layer of that encoder, from 1; `auto` for the one that `wavlm codebook fit --layer auto` chooses.
        mean_removed: for a layer, see `wavlm codebook fit --remove-mean`.
        share: share of the corpus that k-means sees; HuBERT takes all of it for MFCC and 10 % for layers.
        level_normalised: see `wavlm codebook fit --level-normalised`.
        restarts: number of initialisations of k-means.
        features: without an encoder: `mfcc`, or `context`, see `wavlm codebook fit --features`.
        quantiser: `kmeans`, or codes that need no fit, `random` or `pca`, see `wavlm codebook fit --quantiser`.
        dim: outputs of the map in front of the codes; None for the default of `wavlm codebook fit`.
        whiten: give them one variance; None for that default.
        context_ms: of `context`, on each side; None for that default.
        one_pass: label the corpus from the features that the fit holds (`wavlm codebook fit --apply`): an encoder hears the
            corpus once, and the labels are the same. For short runs, whose labels cost as much as their training; saves nothing
            if the memory does not hold the features of all utterances.
        soft: keep the posteriors of so many clusters a frame, see `wavlm codebook apply --soft`; None for hard labels alone.
        kind: `kmeans`, or `phones`: those of forced alignments and decodings by the teacher.
        teacher: a fine-tuning of that encoder on the labelled corpus, which comes first. Its encoder is clustered (CTC
            clustering), or it aligns and decodes the corpus (P-BERT). None for labels without supervision.
        rate: phones: labels a second, 50 or 100.
        positions: phones: one class for each place of a phone in its word, as in Kaldi's alignments.
        stress: phones: whether vowels keep their stress.
        language_model: phones: for speech without transcripts; None for the likeliest label of every frame.
    """

    clusters: int | None = None
    encoder: str | None = None
    checkpoint: str | None = None
    layer: int | Literal["auto"] | None = None
    mean_removed: bool = False
    share: float = 1.0
    level_normalised: bool = False
    restarts: int = 20
    features: Literal["mfcc", "context"] = "mfcc"
    quantiser: Literal["kmeans", "random", "pca"] = "kmeans"
    dim: int | None = None
    whiten: bool | None = None
    context_ms: int | None = None
    one_pass: bool = False
    soft: int | None = None
    kind: Literal["kmeans", "phones"] = "kmeans"
    teacher: FineTuningRecipe | None = None
    rate: int = 50
    positions: bool = False
    stress: Literal["keep", "drop"] = "keep"
    language_model: LanguageModelRecipe | None = None


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
        size: of the mini corpus that `wavlm demo` makes for this configuration.
    """

    hours: float
    gpus: int = 1
    gpu: str = "a100"
    codebook: CodebookRecipe | None = None
    label_sizes: dict[str, int] = field(default_factory=dict)
    fine_tuning: list[FineTuningRecipe] = field(default_factory=list)
    size: Literal["tiny", "mini", "medium", "pretrain"] = "mini"
