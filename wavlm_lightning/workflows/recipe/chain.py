"""Reads pre-training configurations by name, with the chain of earlier ones whose encoders make their labels."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser

from wavlm_lightning import tasks
from wavlm_lightning.pretraining.recipe import CodebookRecipe, FineTuningRecipe, Recipe
from wavlm_lightning.system.errors import UserError
from wavlm_lightning.system.plugins import open_class_paths
from wavlm_lightning.system.reading import read_text
from wavlm_lightning.system.shipped_configs import configs_folder, resolve_config
from wavlm_lightning.system.yaml_files import read_yaml
from wavlm_lightning.workflows.fit import yaml_loader  # noqa: F401 - bounds what the parser reads
from wavlm_lightning.workflows.fit.messages import readable_errors

OF_CODES = (
    "features",
    "quantiser",
    "dim",
    "whiten",
    "context_ms",
)  # keys of CodebookRecipe that say what is coded, and how


@dataclass(frozen=True)
class Configuration:
    """A pre-training configuration."""

    name: str  # of the file without suffix, unique within a chain
    path: Path
    content: dict[str, Any]  # the parsed file
    recipe: Recipe  # its section `recipe`


@dataclass(frozen=True)
class FineTuned:
    """A configuration of a task that is fine-tuned on the encoder of a recipe."""

    name: str  # of the file without suffix, unique within a recipe; of a further round of students with its number
    path: Path
    content: dict[str, Any]  # the parsed file
    recipe: FineTuningRecipe

    @property
    def train_seconds(self) -> float | None:
        """How much of the labelled corpus it trains on; None for all."""
        return (self.content["data"].get("init_args") or {}).get("train_seconds")


def fine_tunings(stage: Configuration) -> list[FineTuned]:
    """What `recipe.fine_tuning` of a configuration names, in order.

    Raises:
        UserError: a file is missing, has no task, or has the name of another; `start_from` or a teacher names no earlier one.
    """
    found: list[FineTuned] = []
    for each in stage.recipe.fine_tuning:
        where = f"{stage.path}: recipe.fine_tuning"
        task = _read_task(each, stage, where)
        path, names = task.path, [one.name for one in found]
        if path.stem in [*names, stage.name]:
            raise UserError(f"{where} names {path.stem!r} twice; give every configuration its own file name")
        earlier = {"starts from": each.start_from}
        if each.pseudo_labels is not None:
            earlier["learns from"] = each.pseudo_labels.teacher
        for verb, name in earlier.items():
            if name is not None and name not in names:
                known = ", ".join(names) or "none"
                raise UserError(f"{where}: {path.stem} {verb} {name!r}; name one that comes before it ({known})")
        before = next((one.recipe for one in found if one.name == each.start_from), None)
        if before is not None and before.folds != each.folds:
            raise UserError(
                f"{where}: {path.stem} has {each.folds} folds, but {each.start_from}, from which it starts, has {before.folds}; "
                "give both the same number"
            )
        if each.pseudo_labels is not None:
            _check_pseudo_labels(each, task, found, where)
            _check_weights(task, found, where)
        found += _rounds(task)
        made = [one.name for one in found]
        if twice := next((name for name in made if name == stage.name or made.count(name) > 1), None):
            raise UserError(f"{where} makes {twice!r} twice; give every configuration its own file name")
    return found


def _rounds(task: FineTuned) -> Iterator[FineTuned]:
    """A fine-tuning; and where it is a student, those of its further rounds, each taught by the one before it."""
    yield task
    pseudo, teacher = task.recipe.pseudo_labels, task.name
    if pseudo is None:
        return
    share = pseudo.share if pseudo.later_share is None else pseudo.later_share
    for number in range(2, pseudo.rounds + 1):
        later = replace(task.recipe, pseudo_labels=replace(pseudo, teacher=teacher, share=share))
        teacher = f"{task.name}-round{number}"
        yield replace(task, name=teacher, recipe=later)


def first_teacher(task: FineTuned, earlier: Sequence[FineTuned]) -> FineTuned:
    """The recogniser with which the rounds of a student begin; a student of any round sees the true labels that it has seen."""
    while (pseudo := task.recipe.pseudo_labels) is not None:
        task = next(one for one in earlier if one.name == pseudo.teacher)
    return task


def teacher(stage: Configuration) -> FineTuned | None:
    """The fine-tuning whose model makes the labels of a configuration; None for labels without supervision.

    Raises:
        UserError: its file is missing or has no task, or it asks for what only a fine-tuning after the export can do.
    """
    codebook = stage.recipe.codebook
    if codebook is None or codebook.teacher is None:
        return None
    where = f"{stage.path}: recipe.codebook.teacher"
    task = _read_task(codebook.teacher, stage, where)
    if codebook.kind == "phones" and task.train_seconds is not None:
        _refuse_part(task, where, "its transcripts are aligned")
    for key in ("start_from", "folds", "pseudo_labels"):
        if getattr(codebook.teacher, key):
            raise UserError(f"{where}: {key} belongs to recipe.fine_tuning; remove it from the teacher")
    return task


def _read_task(each: FineTuningRecipe, stage: Configuration, where: str) -> FineTuned:
    """The configuration of a task, and checks of what the recipe says of it alone."""
    path = next(
        (at for at in (Path(resolve_config(each.config)), stage.path.parent / each.config) if at.is_file()), None
    )
    if path is None:
        raise UserError(f"{where}: the configuration {each.config} does not exist; give the path of a YAML file")
    content = read_yaml(path, "a configuration of a task")
    open_class_paths(read_text(path), [path.resolve().parent])
    if not isinstance(content, dict) or not all(
        isinstance(content.get(key), dict) and content[key].get("class_path") for key in ("model", "data")
    ):
        raise UserError(f"{where}: {path} has no `model` and `data` with a class_path; name a configuration of a task")
    for key, value, least in (("folds", each.folds, 0), ("gpus", each.gpus, 1)):
        if value < least:
            raise UserError(f"{where}: {key} of {path.stem} must be {least} or more, not {value}")
    kept = content.get("keep_checkpoints") or 0
    if each.average and not 2 <= each.average <= kept:
        raise UserError(
            f"{where}: average of {path.stem} must be 0, or from 2 to the {kept} checkpoints that its keep_checkpoints "
            f"keeps, not {each.average}"
        )
    if each.utterance_seconds is not None and each.utterance_seconds <= 0:
        raise UserError(f"{where}: utterance_seconds of {path.stem} must be above 0, not {each.utterance_seconds}")
    return FineTuned(path.stem, path, content, each)


def _check_pseudo_labels(each: FineTuningRecipe, task: FineTuned, earlier: Sequence[FineTuned], where: str) -> None:
    pseudo = each.pseudo_labels
    assert pseudo is not None
    teacher = next(one for one in earlier if one.name == pseudo.teacher)
    if each.folds or teacher.recipe.folds:
        raise UserError(f"{where}: {task.name} has folds, for which there are no pseudo-labels; remove folds")
    if pseudo.rounds < 1:
        raise UserError(f"{where}: pseudo_labels.rounds of {task.name} must be 1 or more, not {pseudo.rounds}")
    if pseudo.later_share is not None and pseudo.rounds == 1:
        raise UserError(
            f"{where}: pseudo_labels.later_share of {task.name} is for rounds above 1; remove it, or set rounds"
        )
    shares = {"share": pseudo.share, "pseudo_share": pseudo.pseudo_share, "later_share": pseudo.later_share}
    for key, value in shares.items():
        if value is not None and not 0 < value <= 1:
            raise UserError(f"{where}: pseudo_labels.{key} of {task.name} must lie between 0 and 1, not {value}")
    model, labelled = pseudo.language_model, first_teacher(teacher, earlier)
    if model is not None and model.file is None and labelled.train_seconds is not None:
        _refuse_part(labelled, where, f"the language model of {task.name} is counted")


def _refuse_part(teacher: FineTuned, where: str, what: str) -> None:
    """Refuse a teacher that sees a part of its labels where all of them would have a part in what it makes."""
    raise UserError(
        f"{where}: {teacher.name} trains on {teacher.train_seconds:g} s of its corpus, but {what} from all of it; remove "
        "train_seconds and give a corpus of this length"
    )


def _check_weights(task: FineTuned, earlier: Sequence[FineTuned], where: str) -> None:
    """A teacher has one file of tuned weights: a second language model would be ignored."""
    pseudo = task.recipe.pseudo_labels
    for other in earlier:
        before = other.recipe.pseudo_labels
        if pseudo is None or before is None or pseudo.teacher != before.teacher:
            continue
        models = pseudo.language_model, before.language_model
        if models[0] != models[1] and all(model is not None and model.trials for model in models):
            raise UserError(
                f"{where}: {task.name} and {other.name} learn from {pseudo.teacher!r} with two language models, and a run "
                "keeps the weights of one; give both the same, or trials: 0"
            )


def chain(name: str) -> list[Configuration]:
    """The configurations to train one after the other: each labels its corpus with the encoder of the previous one.

    `name` is a file in `configs/pretrain` (`wavlm_base`) or a path ending in `.yaml`; its configuration comes last.
    """
    stages: list[Configuration] = []
    path = _find(name, None)
    while True:
        stage = _read(path)
        if any(stage.name == later.name for later in stages):
            raise UserError(
                f"{path}: the chain of recipe.codebook.encoder contains {stage.name!r} twice; let its first codebook be "
                "made from MFCC (encoder: null), and give every configuration its own file name"
            )
        stages.insert(0, stage)
        codebook = stage.recipe.codebook
        if codebook is None or codebook.encoder is None:
            return stages
        path = _find(codebook.encoder, path)


def short_hash(content: dict[str, Any]) -> str:
    """Tells configurations apart by what they say."""
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()[:12]


def _find(name: str, named_in: Path | None) -> Path:
    """The file of a name or path; a path may be relative to the file that names it."""
    if not name.endswith(".yaml"):
        folder = configs_folder() / "pretrain"
        path = folder / f"{name}.yaml"
        if path.is_file():
            return path
        if named_in is None and (base := folder / f"{name}_base.yaml").is_file():  # pbert
            return base
        known = ", ".join(sorted(each.stem for each in folder.glob("*.yaml")))
        asked = f"{named_in}: recipe.codebook.encoder names" if named_in else "there is"
        raise UserError(
            f"{asked} no pre-training configuration {name!r}; take one of {known}, or a path ending in .yaml"
        )
    beside = named_in.parent if named_in else Path()
    for candidate in (Path(resolve_config(name)), beside / name):
        if candidate.is_file():
            return candidate
    raise UserError(f"{named_in or name}: the configuration {name} does not exist; give the path of a YAML file")


def _read(path: Path) -> Configuration:
    content = read_yaml(path, "a configuration of pre-training")
    open_class_paths(read_text(path), [path.resolve().parent])
    _refuse_head(content, path)
    if not isinstance(content, dict) or not isinstance(content.get("recipe"), dict):
        raise UserError(
            f"{path} has no section `recipe`; add `recipe: {{hours: HOURS OF THE CORPUS, gpus: 8, gpu: a100, "
            "codebook: {clusters: 100}}`, or `codebook: null` if it needs no labels"
        )
    recipe = _read_recipe(content["recipe"], path)
    for key, value in (("hours", recipe.hours), ("gpus", recipe.gpus)):
        if value <= 0:
            raise UserError(f"{path}: recipe.{key} must be above 0, not {value}")
    if recipe.codebook is not None:
        _check_codebook(recipe.codebook, path)
    return Configuration(path.stem, path, content, recipe)


def _refuse_head(content: Any, path: Path) -> None:
    """Raise `UserError` if a file is of a task, whose training would be taken for a pre-training of WavLM Base."""
    model = content.get("model") if isinstance(content, dict) else None
    name = str(model.get("class_path") if isinstance(model, dict) else model).rpartition(".")[2]
    if name in tasks.__all__:
        raise UserError(
            f"{path}: the configuration of a head ({name}), and not of a pre-training; a recipe names those that follow it in "
            "`recipe.fine_tuning`"
        )


def _read_recipe(values: dict[str, Any], path: Path) -> Recipe:
    """The section as `wavlm fit` reads it."""
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--recipe", type=Recipe)
    try:
        with readable_errors():
            return parser.instantiate(parser.parse_object({"recipe": values})).recipe
    except UserError as error:
        raise UserError(f"{path}: {error}") from error


def _check_codebook(codebook: CodebookRecipe, path: Path) -> None:
    where = f"{path}: recipe.codebook"
    if codebook.encoder is not None and codebook.checkpoint is not None:
        raise UserError(f"{where} has both encoder and checkpoint; give only the one whose layer is clustered")
    without = codebook.encoder is None and codebook.checkpoint is None
    if codebook.teacher is not None and without:
        raise UserError(f"{where}.teacher needs an encoder or a checkpoint, which it fine-tunes; name one of them")
    if codebook.kind == "phones":
        _check_phones(codebook, where)
        _refuse_changed(
            codebook,
            ("share", "restarts", "level_normalised", "mean_removed", "one_pass", *OF_CODES),
            "is for k-means",
            where,
        )
    else:
        if codebook.clusters is None:
            raise UserError(f"{where}: clusters missing; give their number, or kind: phones")
        if without != (codebook.layer is None):
            raise UserError(f"{where} needs a layer with encoder or checkpoint; give both, or neither for MFCC")
        if codebook.soft is not None and not 2 <= codebook.soft <= codebook.clusters:
            raise UserError(f"{where}.soft must be from 2 to {codebook.clusters}, its clusters, not {codebook.soft}")
        phones = ("language_model", "positions", "rate", "stress")
        _refuse_changed(codebook, phones, "is for kind: phones", where)
        if codebook.layer is None:
            _refuse_changed(codebook, ("mean_removed",), "is for a layer of an encoder", where)
        if codebook.layer is not None:
            _refuse_changed(
                codebook, ("level_normalised", "features", "context_ms"), "is for labels without an encoder", where
            )
        elif codebook.features == "context":
            _refuse_changed(codebook, ("level_normalised",), "is for MFCC", where)
        else:
            _refuse_changed(codebook, ("context_ms",), "is for features: context", where)
        if codebook.quantiser != "kmeans":
            _refuse_changed(codebook, ("restarts", "soft"), "is for k-means", where)
            _refuse_changed(codebook, ("one_pass",), "is for k-means: a fit of random codes holds no features", where)
        if codebook.quantiser == "random":
            _refuse_changed(codebook, ("whiten",), "is for a PCA", where)
        elif codebook.quantiser == "kmeans" and codebook.features == "mfcc" and codebook.dim is None:
            _refuse_changed(codebook, ("whiten",), "needs a PCA in front of k-means, with dim outputs", where)
        if codebook.one_pass and codebook.soft is not None:
            raise UserError(f"{where}: one_pass makes hard labels alone; remove it, or soft")
        if codebook.one_pass and codebook.share < 1:
            raise UserError(
                f"{where}: with share {codebook.share:g} the fit holds hardly any shard whole, so one_pass saves nothing; remove "
                "one of the two"
            )
    if not 0 < codebook.share <= 1:
        raise UserError(f"{where}.share must lie between 0 and 1, not {codebook.share}")
    for key in ("clusters", "layer", "restarts", "dim"):
        value = getattr(codebook, key)
        if isinstance(value, int) and value < 1:
            raise UserError(f"{where}.{key} must be 1 or more, not {value}")


def _refuse_changed(codebook: CodebookRecipe, keys: Sequence[str], whose: str, where: str) -> None:
    """Refuse keys that another kind of labels would ignore, unless they have their defaults."""
    for key in keys:
        if getattr(codebook, key) != getattr(CodebookRecipe(), key):
            raise UserError(f"{where}.{key} {whose}; remove it")


def _check_phones(codebook: CodebookRecipe, where: str) -> None:
    if codebook.teacher is None:
        raise UserError(f"{where}: kind: phones needs a teacher that aligns and decodes; name its configuration")
    for key in ("clusters", "layer", "soft"):
        if getattr(codebook, key) is not None:
            raise UserError(f"{where}.{key} is for k-means; remove it, or kind: phones")
    if codebook.rate not in (50, 100):
        raise UserError(f"{where}.rate must be 50 or 100, not {codebook.rate}")
