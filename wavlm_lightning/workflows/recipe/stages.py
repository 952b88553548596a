"""The stages of a recipe: the `wavlm` commands that lead from a corpus to an exported encoder."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from wavlm_lightning.system.errors import UserError
from wavlm_lightning.system.files import OLD
from wavlm_lightning.system.shipped_configs import configs_folder, resolve_config
from wavlm_lightning.workflows.recipe.chain import RecipeStage

ENCODER = "encoder"
"""Where in the output folder the finished encoder goes."""
OURS = ("--data.corpus", "--data.labels", "--data.noise_corpus", "--trainer.default_root_dir", "--ckpt_path")
"""Options of `wavlm fit` that the recipe sets."""
HARMLESS = ("--data.num_workers", "--checkpoint_every", "--trainer.enable_progress_bar", "--trainer.log_every_n_steps")
"""Options of `wavlm fit` that may change between two calls: they change no weight."""


@dataclass(frozen=True)
class RoadStage:
    """One command of the road.

    Attributes:
        name: `codebook/LABELS`, `labels/LABELS`, `fit/CONFIGURATION` or `export`.
        headline: what it does, in words.
        command: what follows `wavlm`, the first time.
        product: a file that is written last: once it is there, the stage is done.
        run_folder: of a `fit`, which goes on from its newest checkpoint.
    """

    name: str
    headline: str
    command: tuple[str, ...]
    product: Path | None = None
    run_folder: Path | None = None

    @property
    def has_checkpoint(self) -> bool:
        """Whether an interrupted `fit` left something to go on from."""
        if self.run_folder is None:
            return False
        newest = self.run_folder / "checkpoints" / "last.ckpt"
        return newest.exists() or newest.with_name(newest.name + OLD).exists()  # `wavlm fit` gives it its name back

    def words(self) -> list[str]:
        """What follows `wavlm` now."""
        return [*self.command, *(("--ckpt_path", "last") if self.has_checkpoint else ())]


@dataclass(frozen=True)
class Road:
    """All stages of a chain of configurations.

    Attributes:
        chain: the configurations, first one first.
        corpus: what to train on.
        out: folder for everything but the labels, which lie in the corpus.
        corpus_of: by configuration, another corpus than `corpus`.
        noise: the noise corpus, instead of those that the configurations name.
        tag: put before the names of label sets.
        memory_gib: for the features that k-means sees; None lets the machine that runs the stage decide.
        jobs: processes for codebook and labels; None likewise.
        options: of every `wavlm fit`, each with its values.

    Raises:
        UserError: an option that the recipe sets itself, a corpus or noise for nobody, or a configuration that reads
            several label sets.

    Example:
        >>> [stage.name for stage in Road(chain("tiny"), Path("corpus"), Path("runs/r")).stages]
        ['codebook/mfcc-level-k100', 'labels/mfcc-level-k100', 'fit/tiny', 'export']
    """

    chain: Sequence[RecipeStage]
    corpus: Path
    out: Path
    corpus_of: Mapping[str, Path] = field(default_factory=dict)
    noise: Path | None = None
    tag: str | None = None
    memory_gib: float | None = None
    jobs: int | None = None
    options: Sequence[Sequence[str]] = ()

    def __post_init__(self) -> None:
        names = [each.name for each in self.chain]
        for option in self.options:
            if (name := option[0].replace(".init_args.", ".")) in OURS:
                raise UserError(f"{name}: the recipe sets this option of `wavlm fit` itself; leave it out after --")
            if name == "--model.encoder" and any(map(_goes_on, self.chain)):
                raise UserError(
                    "--model.encoder: labels would come from another encoder; give --checkpoint, which sets both"
                )
        for name in self.corpus_of:
            if name not in names:
                raise UserError(f"--corpus-of {name}: this recipe trains {', '.join(names)}; name one of them")
        if self.noise is not None and not any(_mixes_noise(each) for each in self.chain):
            raise UserError("--noise-corpus: no configuration of this recipe names a noise corpus; leave it out")
        for each in self.chain:
            asked = each.content.get("data", {}).get("init_args", {}).get("labels")
            if isinstance(asked, list) and len(asked) > 1:
                raise UserError(
                    f"{each.path}: data.labels names {len(asked)} label sets, but a recipe makes one a configuration; "
                    "make them with `wavlm codebook`, then run `wavlm fit`"
                )

    @property
    def stages(self) -> list[RoadStage]:
        """In the order in which they run."""
        last = self.chain[-1].name
        export = ("export", str(self.out / last), str(self.out / ENCODER))
        return [
            *(stage for each in self.chain for stage in (*self._labelling(each), self._fit(each))),
            RoadStage("export", f"the encoder of {last} for everybody", export),
        ]

    def corpus_for(self, configuration: RecipeStage) -> Path:
        """What a configuration is trained on."""
        return self.corpus_of.get(configuration.name, self.corpus)

    def label_set(self, configuration: RecipeStage) -> str | None:
        """What the labels of a configuration are called in its corpus; None if it needs none."""
        codebook = configuration.recipe.codebook
        if codebook is None:
            return None
        if codebook.checkpoint is not None:
            name = f"{Path(codebook.checkpoint).name.removesuffix('.pt').removesuffix('.ckpt')}-l{codebook.layer}"
        elif codebook.encoder is not None:
            name = f"{Path(codebook.encoder).stem}-l{codebook.layer}"
        else:
            name = "mfcc-level" if codebook.level_normalised else "mfcc"
        return f"{f'{self.tag}-' if self.tag else ''}{name}-k{codebook.clusters}"

    def _labelling(self, configuration: RecipeStage) -> list[RoadStage]:
        codebook, name = configuration.recipe.codebook, self.label_set(configuration)
        if codebook is None or name is None:
            return []
        folder, corpus = self.out / "codebooks" / name, str(self.corpus_for(configuration))
        fit, source = ["codebook", "fit", corpus, "--clusters", str(codebook.clusters)], "MFCC"
        encoder = codebook.checkpoint or (codebook.encoder and str(self.out / Path(codebook.encoder).stem))
        if encoder:
            fit += ["--encoder", encoder, "--layer", str(codebook.layer)]
            source = f"layer {codebook.layer} of {encoder}"
        fit += ["--share", f"{codebook.share:g}", "--restarts", str(codebook.restarts)]
        jobs = () if self.jobs is None else ("--jobs", str(self.jobs))
        fit += [*jobs, *(() if self.memory_gib is None else ("--memory", f"{self.memory_gib:g}"))]
        fit += [*(["--level-normalised"] if codebook.level_normalised else []), "--out", str(folder)]
        return [
            RoadStage(
                f"codebook/{name}",
                f"{codebook.clusters} clusters of {source}, from {100 * codebook.share:g} % of the utterances",
                tuple(fit),
                product=folder / "codebook.json",
            ),
            RoadStage(
                f"labels/{name}",
                "a label for every frame of the corpus",
                ("codebook", "apply", str(folder), corpus, "--name", name, *jobs),
            ),
        ]

    def _fit(self, configuration: RecipeStage) -> RoadStage:
        folder, labels = self.out / configuration.name, self.label_set(configuration)
        command = ["fit", "-c", pasteable(configuration.path), "--data.corpus", str(self.corpus_for(configuration))]
        if labels is not None:
            command += ["--data.labels", labels]
        if self.noise is not None and _mixes_noise(configuration):
            command += ["--data.noise_corpus", str(self.noise)]
        if _goes_on(configuration):
            command += ["--model.encoder", configuration.content["model"]["init_args"]["encoder"]]
        command += ["--trainer.default_root_dir", str(folder)]
        command += [word for option in self.options for word in option]
        aim = f"pre-training on the labels {labels}" if labels else "pre-training without labels"
        return RoadStage(f"fit/{configuration.name}", aim, tuple(command), run_folder=folder)

    def noise_corpora(self) -> list[Path]:
        """The noise corpora that will be read."""
        if self.noise is not None:
            return [self.noise]
        return [Path(each.content["data"]["init_args"]["noise_corpus"]) for each in self.chain if _mixes_noise(each)]


def going_on_from(chain: Sequence[RecipeStage], checkpoint: str) -> list[RecipeStage]:
    """The same configurations, of which the first goes on from another encoder, and labels with it.

    Raises:
        UserError: it does not go on from an encoder.
    """
    first = chain[0]
    if first.recipe.codebook is None or not _goes_on(first):
        raise UserError(
            f"--checkpoint: {first.name} begins with fresh weights; leave it out, or take the recipe `continue`"
        )
    model = first.content["model"]
    model = {**model, "init_args": {**model["init_args"], "encoder": checkpoint}}
    codebook = replace(first.recipe.codebook, checkpoint=checkpoint)
    changed = replace(first, content={**first.content, "model": model}, recipe=replace(first.recipe, codebook=codebook))
    return [changed, *chain[1:]]


def _goes_on(stage: RecipeStage) -> bool:
    """Whether it trains the very encoder that makes its labels."""
    codebook, model = stage.recipe.codebook, stage.content.get("model", {})
    encoder = model.get("init_args", {}).get("encoder") if isinstance(model, dict) else None
    return codebook is not None and codebook.checkpoint is not None and codebook.checkpoint == encoder


def option_groups(words: Sequence[str]) -> list[list[str]]:
    """Options with the values that follow them.

    Raises:
        UserError: the first word is no option.

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
            raise UserError(f"{word!r} after -- is no option; write what `wavlm fit` takes, like --trainer.devices 8")
    return groups


def lasting(options: Sequence[Sequence[str]]) -> list[str]:
    """The options that decide which weights come out, as one string each; of files, what is in them."""
    return [
        " ".join([*option, *(_hash(word) for word in option[1:] if option[0] in ("-c", "--config"))])
        for option in options
        if option[0] not in HARMLESS
    ]


def _hash(name: str) -> str:
    path = Path(resolve_config(name))
    return hashlib.sha256(path.read_bytes()).hexdigest()[:12] if path.is_file() else "missing"


def _mixes_noise(stage: RecipeStage) -> bool:
    return bool(stage.content.get("data", {}).get("init_args", {}).get("noise_corpus"))


def pasteable(path: Path) -> str:
    """The path of a shipped configuration as it reads in any clone and in an installed package."""
    folder = configs_folder()
    return (
        str(Path("configs") / path.resolve().relative_to(folder))
        if path.resolve().is_relative_to(folder)
        else str(path)
    )
