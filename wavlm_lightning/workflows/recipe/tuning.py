"""The commands of a fine-tuning: language model and pseudo-labels where it learns from them, training, average, test."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from wavlm_lightning.pretraining.recipe import LanguageModelRecipe
from wavlm_lightning.system.run_folder import BEST, CARD, checkpoint
from wavlm_lightning.tasks.components.beam_search import TUNED
from wavlm_lightning.workflows.recipe.chain import FineTuned, first_teacher
from wavlm_lightning.workflows.recipe.stage import LABELLED, OF_TEACHER, PSEUDO, RecipeStage, pasteable

AVERAGE = "-average"  # end of the name of the folder with a run's averaged weights


@dataclass(frozen=True)
class Tuning:
    """A fine-tuning in a recipe.

    Attributes:
        task: its configuration.
        name: of its run, in the folder `out`; with folds, those of its runs begin with it.
        encoder: what is fine-tuned: a run, a folder of weights.
        source: its name for headlines.
        labelled: the corpus with labels.
        out: folder of the recipe.
        unlabelled: the corpus of which pseudo-labels are made.
    """

    task: FineTuned
    name: str
    encoder: str
    source: str
    labelled: Path
    out: Path
    unlabelled: Path

    @property
    def tested(self) -> str:
        """Name of the run whose weights are tested and used further, without the number of a fold."""
        return self.name + (AVERAGE if self.task.recipe.average else "")

    @property
    def train_seconds(self) -> float | None:
        """How much of the labelled corpus its configuration trains on; None for all."""
        return self.task.train_seconds

    @property
    def train_split(self) -> str:
        """The split of the labelled corpus that its configuration trains on."""
        return (self.task.content["data"].get("init_args") or {}).get("train_split") or "train"

    def stages(self, earlier: Sequence[Tuning] = ()) -> list[RecipeStage]:
        """Pseudo-labels; then training, average and test, of every fold where the corpus has folds."""
        recipe, stages = self.task.recipe, list[RecipeStage]()
        started = next((each for each in earlier if each.task.name == recipe.start_from), None)
        mixture: list[str] = []
        tested_on = {LABELLED: self.labelled}
        corpora = tested_on
        if recipe.pseudo_labels is not None:
            teacher = next(each for each in earlier if each.task.name == recipe.pseudo_labels.teacher)
            stages += self._pseudo_labels(teacher)
            corpora = {LABELLED: self.labelled, PSEUDO: self.pseudo_corpus}
            mixture = ["--data.pseudo_corpus", str(self.pseudo_corpus)]
            mixture += ["--data.pseudo_share", f"{recipe.pseudo_labels.pseudo_share:g}"]
            labelled = first_teacher(self.task, [each.task for each in earlier])
            if (seconds := labelled.train_seconds) != self.train_seconds:  # it sees the same labels
                mixture += ["--data.train_seconds", "null" if seconds is None else f"{seconds:.10g}"]
        for fold in range(1, recipe.folds + 1) if recipe.folds else [0]:
            suffix = f"-fold{fold}" if fold else ""
            name = self.name + suffix
            folder, average = self.out / name, self.out / f"{name}{AVERAGE}"
            words = ["-c", pasteable(self.task.path), "--model.upstream.source", self.encoder]
            words += ["--data.corpus", str(self.labelled), "--trainer.default_root_dir", str(folder)]
            words += ["--data.fold", str(fold)] if fold else []
            begin, after = [], f"the encoder of {self.source}"
            if started is not None:
                after = started.name + suffix + (AVERAGE if started.task.recipe.average else "")
                begin = ["--model.start_from", str(self.out / after)]
            headline, command = f"fine-tuning of {after}", ("fit", *words, *mixture, *begin)
            stages.append(RecipeStage(f"fit/{name}", headline, command, run_folder=folder, corpora=corpora))
            test, tested = ("test", *words, "--ckpt_path", BEST), folder
            if recipe.average:
                last = str(recipe.average)
                command = ("average", str(folder), "--last", last, "--out", str(average))
                headline = f"the mean of its last {last} checkpoints"
                stages.append(RecipeStage(f"average/{name}", headline, command, product=checkpoint(average, BEST)))
                test, tested = ("test", str(average)), average
            headline = "its best checkpoint on the test split"
            stages.append(RecipeStage(f"test/{name}", headline, test, product=tested / CARD, corpora=tested_on))
        return stages

    @property
    def pseudo_corpus(self) -> Path:
        """Where the corpus of pseudo-labels is written."""
        return self.out / "pseudo" / self.name

    def _pseudo_labels(self, teacher: Tuning) -> list[RecipeStage]:
        pseudo = self.task.recipe.pseudo_labels
        assert pseudo is not None
        run = self.out / teacher.tested
        model, counted = language_model(pseudo.language_model, run, self.name, teacher)
        command = ["pseudo-label", str(run), str(self.unlabelled), "--out", str(self.pseudo_corpus)]
        command += ["--share", f"{pseudo.share:g}", *model]
        # The student has their true text, or is judged by them. Of one corpus for both, the command finds the teacher's part.
        others = {path.resolve(): path for path in (teacher.labelled, self.labelled)}
        others.pop(self.unlabelled.resolve(), None)
        command += ["--exclude", *map(str, others.values())] if others else []
        headline = f"transcripts by {teacher.tested}; the best {100 * pseudo.share:g} % are kept"
        product = self.pseudo_corpus / "corpus.json"
        corpora = {LABELLED: self.labelled, OF_TEACHER: teacher.labelled, PSEUDO: self.pseudo_corpus}
        stage = RecipeStage(f"pseudo/{self.name}", headline, tuple(command), product=product, corpora=corpora)
        return [*counted, stage]


def language_model(
    recipe: LanguageModelRecipe | None, run: Path, name: str, teacher: Tuning
) -> tuple[list[str], list[RecipeStage]]:
    """The option with which a run of the teacher decodes, and the stages that count its language model and search the weights."""
    if recipe is None:
        return [], []
    corpora = {OF_TEACHER: teacher.labelled}
    path, stages = Path(recipe.file or teacher.out / "lm" / f"{name}.arpa"), list[RecipeStage]()
    if recipe.file is None:
        command = ["lm", str(teacher.labelled), "--units", recipe.units, "--order", str(recipe.order)]
        command += ["--out", str(path)]
        command += [] if teacher.train_split == "train" else ["--split", teacher.train_split]
        headline = f"a {recipe.order}-gram model of the {recipe.units} of the labelled transcripts"
        stages.append(RecipeStage(f"lm/{name}", headline, tuple(command), product=path, corpora=corpora))
    if recipe.trials:
        command = ["lm", "tune", str(run), "--lm", str(path), "--trials", str(recipe.trials)]
        headline, path = "its weights, by the errors on validation", run / TUNED
        stages.append(RecipeStage(f"tune/{name}", headline, tuple(command), product=path, corpora=corpora))
    return ["--lm", str(path)], stages
