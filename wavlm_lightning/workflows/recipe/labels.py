"""The commands that make the labels of a pre-training: k-means, CTC clustering, or the phones of alignments (P-BERT)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from wavlm_lightning.pretraining.recipe import CodebookRecipe
from wavlm_lightning.workflows.recipe.chain import Configuration, FineTuned, teacher
from wavlm_lightning.workflows.recipe.stage import OF_TEACHER, RecipeStage
from wavlm_lightning.workflows.recipe.tuning import Tuning, language_model


def teacher_name(configuration: Configuration, task: FineTuned) -> str:
    """Name of the run of a teacher: two configurations of a chain may fine-tune two encoders for one task."""
    codebook = configuration.recipe.codebook
    assert codebook is not None
    return f"{task.name}-of-{_encoder_name(codebook)}"


def label_set(configuration: Configuration, tag: str | None = None) -> str | None:
    """Name of a configuration's label set in its corpus; None if it has no labels."""
    codebook = configuration.recipe.codebook
    if codebook is None:
        return None
    if (task := teacher(configuration)) is not None:
        name = teacher_name(configuration, task)
    elif codebook.layer is None:
        name = f"{codebook.features}-level" if codebook.level_normalised else codebook.features
    else:
        name = _encoder_name(codebook)
    if codebook.kind == "phones":
        name += "-phones"
    else:
        number = "" if codebook.layer is None else f"-l{codebook.layer}"
        layer = "-auto" if codebook.layer == "auto" else number
        codes = "" if codebook.quantiser == "kmeans" else f"-{codebook.quantiser}"
        mean = "-less-mean" if codebook.mean_removed else ""
        name += f"{layer}{mean}{codes}-k{codebook.clusters}" + (f"-soft{codebook.soft}" if codebook.soft else "")
    return f"{tag}-{name}" if tag else name


def fit_options(codebook: CodebookRecipe, labels: str) -> list[str]:
    """The options of `wavlm codebook fit` that say how frames become codes, apart from an encoder and its layer.

    `labels` is the name of the label set, for a fit that makes it in the same pass.
    """
    options = [] if codebook.quantiser != "kmeans" else ["--restarts", str(codebook.restarts)]
    options += ["--features", codebook.features] if codebook.features != "mfcc" else []
    options += ["--quantiser", codebook.quantiser] if codebook.quantiser != "kmeans" else []
    options += ["--dim", str(codebook.dim)] if codebook.dim is not None else []
    if codebook.whiten is not None:
        options.append("--whiten" if codebook.whiten else "--no-whiten")
    options += ["--context-ms", str(codebook.context_ms)] if codebook.context_ms is not None else []
    options += ["--remove-mean"] if codebook.mean_removed else []
    options += ["--apply", labels] if codebook.one_pass else []
    return ["--share", f"{codebook.share:g}", *options, *(["--level-normalised"] if codebook.level_normalised else [])]


def _encoder_name(codebook: CodebookRecipe) -> str:
    if codebook.checkpoint is not None:
        return Path(codebook.checkpoint).name.removesuffix(".pt").removesuffix(".ckpt")
    return Path(str(codebook.encoder)).stem


@dataclass(frozen=True)
class LabelMaking:
    """How the labels of a configuration are made.

    Attributes:
        configuration: it has a codebook.
        corpus: the corpus that is labelled.
        labelled: the corpus of the teacher; None without a teacher.
        out: folder of the recipe.
        tag: prefix of the name of the label set.
        memory_gib: memory for the features of k-means; None lets the machine decide.
        jobs: processes for codebook and labels; None lets the machine decide.
    """

    configuration: Configuration
    corpus: Path
    labelled: Path | None
    out: Path
    tag: str | None = None
    memory_gib: float | None = None
    jobs: int | None = None

    @property
    def name(self) -> str:
        """Of the label set, its codebook and its alignments."""
        return str(label_set(self.configuration, self.tag))

    @property
    def encoder(self) -> str:
        """The encoder of the earlier iteration."""
        codebook = self._codebook
        return codebook.checkpoint or str(self.out / Path(str(codebook.encoder)).stem)

    @property
    def stages(self) -> list[RecipeStage]:
        """Fine-tuning of the teacher where there is one, codebook, labels."""
        stages, tuning = list[RecipeStage](), self.tuning
        if tuning is not None:
            stages += tuning.stages()
        stages += [self._k_means(tuning)] if self._codebook.kind == "kmeans" else self._phones(tuning)
        soft = () if self._codebook.soft is None else ("--soft", str(self._codebook.soft))
        apply = ("codebook", "apply", str(self._folder), str(self.corpus), "--name", self.name, *soft, *self._jobs)
        return [*stages, RecipeStage(f"labels/{self.name}", "a label for every frame of the corpus", apply)]

    @property
    def tuning(self) -> Tuning | None:
        """The fine-tuning of the teacher."""
        task = teacher(self.configuration)
        if task is None or self.labelled is None:
            return None
        name = teacher_name(self.configuration, task)
        source = _encoder_name(self._codebook)
        return Tuning(task, name, self.encoder, source, self.labelled, self.out, self.corpus)

    def _k_means(self, tuning: Tuning | None) -> RecipeStage:
        codebook = self._codebook
        source = "MFCC" if codebook.features == "mfcc" else "log-mel with context"
        fit = ["codebook", "fit", str(self.corpus), "--clusters", str(codebook.clusters)]
        if codebook.layer is not None:
            encoder = self.encoder if tuning is None else str(self.out / tuning.tested)
            fit += ["--encoder", encoder, "--layer", str(codebook.layer)]
            layer = "the best layer" if codebook.layer == "auto" else f"layer {codebook.layer}"
            source = f"{layer} of {encoder}" + (" less the mean of the utterance" if codebook.mean_removed else "")
        fit += [*self._jobs, *([] if self.memory_gib is None else ["--memory", f"{self.memory_gib:g}"])]
        fit += [*fit_options(codebook, self.name), "--out", str(self._folder)]
        codes = "clusters" if codebook.quantiser == "kmeans" else "random codes"
        headline = f"{codebook.clusters} {codes} of {source}, from {100 * codebook.share:g} % of the utterances"
        return RecipeStage(f"codebook/{self.name}", headline, tuple(fit), product=self._folder / "codebook.json")

    def _phones(self, tuning: Tuning | None) -> list[RecipeStage]:
        codebook = self._codebook
        assert tuning is not None  # the chain refuses kind: phones without a teacher
        run = self.out / tuning.tested
        model, counted = language_model(codebook.language_model, run, tuning.name, tuning)
        align = ["align", str(run), str(self.corpus), "--name", self.name]
        align += ["--labelled", str(tuning.labelled), "--transcripts", "decoded", *model]
        text = "true transcripts are aligned where the labelled corpus has them, all else is decoded and aligned"
        phones = ["codebook", "phones", str(self.corpus), "--alignments", self.name, "--rate", str(codebook.rate)]
        phones += [*(["--positions"] if codebook.positions else []), "--stress", codebook.stress]
        # Where the teacher hears nothing, there is no alignment; pre-training leaves such utterances out.
        phones += ["--unaligned", "leave-out", "--out", str(self._folder)]
        return [
            *counted,
            RecipeStage(f"align/{self.name}", text, tuple(align), corpora={OF_TEACHER: tuning.labelled}),
            RecipeStage(
                f"codebook/{self.name}",
                f"the phones of these alignments, {codebook.rate} a second",
                tuple(phones),
                product=self._folder / "codebook.json",
            ),
        ]

    @property
    def _codebook(self) -> CodebookRecipe:
        codebook = self.configuration.recipe.codebook
        assert codebook is not None
        return codebook

    @property
    def _folder(self) -> Path:
        return self.out / "codebooks" / self.name

    @property
    def _jobs(self) -> tuple[str, ...]:
        return () if self.jobs is None else ("--jobs", str(self.jobs))
