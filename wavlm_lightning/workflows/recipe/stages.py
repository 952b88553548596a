"""The stages of a recipe: the `wavlm` commands from a corpus to an exported encoder and what is fine-tuned on it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from wavlm_lightning.system.errors import UserError
from wavlm_lightning.system.shipped_configs import resolve_config
from wavlm_lightning.workflows.recipe.chain import Configuration, FineTuned, fine_tunings, teacher
from wavlm_lightning.workflows.recipe.labels import LabelMaking, label_set
from wavlm_lightning.workflows.recipe.stage import RecipeStage, pasteable
from wavlm_lightning.workflows.recipe.tuning import Tuning

ENCODER = "encoder"  # folder of the exported encoder in the output folder
# Options of `wavlm fit` that the recipe sets, and those that may change between two calls: they do not affect the weights.
OURS = ("--data.corpus", "--data.labels", "--data.noise_corpus", "--trainer.default_root_dir", "--ckpt_path")
HARMLESS = ("--data.num_workers", "--checkpoint_every", "--trainer.enable_progress_bar", "--trainer.log_every_n_steps")


@dataclass(frozen=True)
class RecipeRun:
    """A run of a recipe: the stages of a chain of configurations on a corpus. Wrong options raise `UserError`.

    Example:
        >>> [stage.name for stage in RecipeRun(chain("tiny_waveform"), Path("corpus"), Path("runs/r")).stages]
        ['codebook/mfcc-level-k100', 'labels/mfcc-level-k100', 'fit/tiny_waveform', 'export']
    """

    chain: Sequence[Configuration]  # first one first
    corpus: Path
    out: Path  # for everything except the labels, which are written into the corpus
    corpus_of: Mapping[str, Path] = field(default_factory=dict)  # configuration -> its corpus, if it is not `corpus`
    labelled: Path | None = None  # corpus of teachers and fine-tunings, instead of those that their configurations name
    noise: Path | None = None  # corpus, instead of those that the configurations name
    tag: str | None = None  # prefix of the names of label sets
    memory_gib: float | None = None  # for the features that k-means sees; None lets the machine that runs it decide
    jobs: int | None = None  # processes for codebook and labels; None lets the machine decide
    options: Sequence[Sequence[str]] = ()  # of every `wavlm fit` of pre-training, each with its values

    def __post_init__(self) -> None:
        tasks = [each.name for each in (*self.teachers, *self.fine_tunings)]
        names = list(dict.fromkeys([*(each.name for each in self.chain), *tasks]))
        if self.labelled is not None and not self.supervised:
            raise UserError(
                "--labelled: this recipe makes no labels by a teacher; name the corpora of its fine-tunings with --corpus-of"
            )
        for option in self.options:
            if (name := option[0].replace(".init_args.", ".")) in OURS:
                raise UserError(f"{name}: the recipe sets this option of `wavlm fit` itself; remove it after --")
            if name == "--model.encoder" and any(map(_continues, self.chain)):
                raise UserError(
                    "--model.encoder: the labels would come from another encoder; give --checkpoint, which sets both"
                )
        for name in self.corpus_of:
            if name not in names:
                raise UserError(f"--corpus-of {name}: this recipe trains {', '.join(names)}; name one of them")
        if self.noise is not None and not any(_mixes_noise(each) for each in self.chain):
            raise UserError("--noise-corpus: no configuration of this recipe names a noise corpus; remove the option")
        for each in self.chain:
            asked = each.content.get("data", {}).get("init_args", {}).get("labels")
            if isinstance(asked, list) and len(asked) > 1:
                raise UserError(
                    f"{each.path}: data.labels names {len(asked)} label sets, but a recipe makes one per configuration; "
                    "make them with `wavlm codebook`, then run `wavlm fit`"
                )

    @property
    def stages(self) -> list[RecipeStage]:
        """The stages in the order in which they run."""
        last = self.chain[-1].name
        export = ("export", str(self.out / last), str(self.out / ENCODER))
        return [
            *(stage for each in self.chain for stage in (*self._labelling(each), self._fit(each))),
            RecipeStage("export", f"the encoder of {last} as a Hugging Face folder", export),
            *self._tunings(),
        ]

    @property
    def fine_tunings(self) -> list[FineTuned]:
        """What follows the export: the fine-tunings that the recipe's own configuration names."""
        return fine_tunings(self.chain[-1])

    @property
    def teachers(self) -> list[FineTuned]:
        """The fine-tunings whose models make labels, of the whole chain."""
        return [task for each in self.chain if (task := teacher(each)) is not None]

    @property
    def supervised(self) -> bool:
        """Whether models that saw labels make labels: for pre-training, or for a student."""
        return bool(self.teachers) or any(each.recipe.pseudo_labels for each in self.fine_tunings)

    def corpus_for(self, configuration: Configuration) -> Path:
        """The corpus of a configuration."""
        return self.corpus_of.get(configuration.name, self.corpus)

    def labelled_corpus(self, task: FineTuned) -> Path:
        """The corpus of a fine-tuning: that of `corpus_of`, `labelled`, or that which its configuration names."""
        named = Path(str((task.content["data"].get("init_args") or {}).get("corpus")))
        # A further round of students has the corpus of the first, whose file it has.
        return self.corpus_of.get(task.name, self.corpus_of.get(task.path.stem, self.labelled or named))

    def label_set(self, configuration: Configuration) -> str | None:
        """Name of a configuration's label set in its corpus."""
        return label_set(configuration, self.tag)

    def _tunings(self) -> list[RecipeStage]:
        """Those of the fine-tunings after the export."""
        encoder, corpus = str(self.out / ENCODER), self.corpus_for(self.chain[-1])
        stages, earlier = list[RecipeStage](), list[Tuning]()
        for task in self.fine_tunings:
            labelled = self.labelled_corpus(task)
            tuning = Tuning(task, task.name, encoder, self.chain[-1].name, labelled, self.out, corpus)
            stages += tuning.stages(earlier)
            earlier.append(tuning)
        return stages

    def _labelling(self, configuration: Configuration) -> list[RecipeStage]:
        if configuration.recipe.codebook is None:
            return []
        task = teacher(configuration)
        labelled = None if task is None else self.labelled_corpus(task)
        corpus, limits = self.corpus_for(configuration), (self.memory_gib, self.jobs)
        return LabelMaking(configuration, corpus, labelled, self.out, self.tag, *limits).stages

    def _fit(self, configuration: Configuration) -> RecipeStage:
        folder, labels = self.out / configuration.name, self.label_set(configuration)
        command = ["fit", "-c", pasteable(configuration.path), "--data.corpus", str(self.corpus_for(configuration))]
        if labels is not None:
            command += ["--data.labels", labels]
        if self.noise is not None and _mixes_noise(configuration):
            command += ["--data.noise_corpus", str(self.noise)]
        if _continues(configuration):
            command += ["--model.encoder", configuration.content["model"]["init_args"]["encoder"]]
        command += ["--trainer.default_root_dir", str(folder)]
        command += [word for option in self.options for word in option]
        description = f"pre-training on the labels {labels}" if labels else "pre-training without labels"
        return RecipeStage(f"fit/{configuration.name}", description, tuple(command), run_folder=folder)

    def noise_corpora(self) -> list[Path]:
        """The noise corpora that the configurations read."""
        if self.noise is not None:
            return [self.noise]
        return [Path(each.content["data"]["init_args"]["noise_corpus"]) for each in self.chain if _mixes_noise(each)]


def continued_from(chain: Sequence[Configuration], encoder: str) -> list[Configuration]:
    """The chain with another encoder that its first configuration continues to train and makes its labels with.

    Where the last configuration has a teacher, that encoder is what the teacher fine-tunes, and earlier ones are left out.
    """
    last = chain[-1]
    if last.recipe.codebook is not None and last.recipe.codebook.teacher is not None:
        content = {**last.content, "recipe": {**last.content["recipe"]}}
        content["recipe"]["codebook"] = {**content["recipe"]["codebook"], "encoder": None, "checkpoint": encoder}
        codebook = replace(last.recipe.codebook, encoder=None, checkpoint=encoder)
        return [replace(last, content=content, recipe=replace(last.recipe, codebook=codebook))]
    first = chain[0]
    if first.recipe.codebook is None or not _continues(first):
        raise UserError(
            f"--checkpoint: {first.name} begins with fresh weights; remove the option, or take the recipe `continue`, or one "
            "with a teacher"
        )
    model = first.content["model"]
    model = {**model, "init_args": {**model["init_args"], "encoder": encoder}}
    codebook = replace(first.recipe.codebook, checkpoint=encoder)
    changed = replace(first, content={**first.content, "model": model}, recipe=replace(first.recipe, codebook=codebook))
    return [changed, *chain[1:]]


def with_codebook(
    chain: Sequence[Configuration], layer: int | None = None, clusters: int | None = None
) -> list[Configuration]:
    """The chain whose last configuration has labels of another layer, or of another number of clusters.

    Raises:
        UserError: it has no labels, they are not made from a layer, or a number is below 1.
    """
    asked = {name: value for name, value in (("layer", layer), ("clusters", clusters)) if value is not None}
    if not asked:
        return list(chain)
    last = chain[-1]
    codebook = last.recipe.codebook
    for name, value in asked.items():
        if codebook is None:
            raise UserError(f"--{name}: {last.name} is trained without labels; remove the option")
        if codebook.kind == "phones":
            raise UserError(f"--{name}: the labels of {last.name} are phones, not clusters; remove the option")
        if name == "layer" and codebook.layer is None:
            made_from = "MFCC" if codebook.features == "mfcc" else "log-mel with context"
            raise UserError(
                f"--layer: the labels of {last.name} are made from {made_from}, not from a layer; remove the option"
            )
        if value < 1:
            raise UserError(f"--{name} {value}: must be 1 or more")
    assert codebook is not None
    content = {**last.content, "recipe": {**last.content["recipe"]}}
    content["recipe"]["codebook"] = {**content["recipe"]["codebook"], **asked}
    changed_book = replace(
        codebook, layer=asked.get("layer", codebook.layer), clusters=asked.get("clusters", codebook.clusters)
    )
    changed = replace(last, content=content, recipe=replace(last.recipe, codebook=changed_book))
    return [*chain[:-1], changed]


def _continues(stage: Configuration) -> bool:
    """Whether it continues to train the encoder that makes its labels."""
    codebook, model = stage.recipe.codebook, stage.content.get("model", {})
    encoder = model.get("init_args", {}).get("encoder") if isinstance(model, dict) else None
    return codebook is not None and codebook.checkpoint is not None and codebook.checkpoint == encoder


def option_groups(words: Sequence[str]) -> list[list[str]]:
    """Options with the values that follow them.

    Example:
        >>> option_groups(["--a", "1", "--b=2"])
        [['--a', '1'], ['--b', '2']]
    """
    groups: list[list[str]] = []
    for word in words:
        if word.startswith("--") or word in ("-c", "-h"):
            groups.append(word.split("=", 1) if word.startswith("--") else [word])
        elif groups:
            groups[-1].append(word)
        else:
            raise UserError(
                f"{word!r} after -- is not an option; give options of `wavlm fit`, such as --trainer.devices 8"
            )
    return groups


def lasting(options: Sequence[Sequence[str]]) -> list[str]:
    """The options that affect the weights, one string each; configuration files are represented by a hash."""
    return [
        " ".join([*option, *(_hash(word) for word in option[1:] if option[0] in ("-c", "--config"))])
        for option in options
        if option[0] not in HARMLESS
    ]


def _hash(name: str) -> str:
    path = Path(resolve_config(name))
    return hashlib.sha256(path.read_bytes()).hexdigest()[:12] if path.is_file() else "missing"


def _mixes_noise(stage: Configuration) -> bool:
    return bool(stage.content.get("data", {}).get("init_args", {}).get("noise_corpus"))
