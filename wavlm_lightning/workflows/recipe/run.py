"""Runs the stages of a recipe: prints each command, skips finished stages, resumes an interrupted one."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from wavlm_lightning.data.corpus import Corpus
from wavlm_lightning.pretraining.recipe import FineTuningRecipe
from wavlm_lightning.system.command import wavlm
from wavlm_lightning.system.errors import UserError
from wavlm_lightning.system.files import LOCK, check_output, own_folder
from wavlm_lightning.system.ledger import Ledger, Stage
from wavlm_lightning.workflows.fit.head_runs import files_named, shards_named
from wavlm_lightning.workflows.fit.ownership import resumption
from wavlm_lightning.workflows.recipe.chain import Configuration, chain, short_hash
from wavlm_lightning.workflows.recipe.checks import check_language_models, check_stages
from wavlm_lightning.workflows.recipe.stage import RecipeStage
from wavlm_lightning.workflows.recipe.stages import (
    ENCODER,
    RecipeRun,
    continued_from,
    lasting,
    option_groups,
    with_codebook,
)

LEDGER = "recipe.json"


def run_recipe(
    recipe: str,
    corpus: Path,
    out: Path,
    options: Sequence[str] = (),
    *,
    corpus_of: Mapping[str, Path] | None = None,
    labelled: Path | None = None,
    checkpoint: str | None = None,
    layer: int | None = None,
    clusters: int | None = None,
    noise_corpus: Path | None = None,
    tag: str | None = None,
    memory_gib: float | None = None,
    jobs: int | None = None,
    until: str | None = None,
    adopt: bool = False,
    dry_run: bool = False,
) -> Path | None:
    """Run the stages of a recipe that are not done yet: codebooks, labels, pre-training, export, fine-tuning and its tests.

    Args:
        recipe: name of a file in `configs/pretrain` (`wavlm_base`), or the path of a configuration.
        corpus: the training corpus; the labels are written into it.
        out: folder for codebooks, runs and the encoder.
        options: further options of every `wavlm fit` of pre-training; those of fine-tuning stand in its configurations.
        corpus_of: name of a configuration -> its corpus, if it is not `corpus`, or for fine-tuning the one that it names.
        labelled: the corpus with labels, of the fine-tunings that make labels and of those after the export; None for those that
            their configurations name.
        checkpoint: the encoder to continue from and to label with, instead of the one that the configuration names; of a recipe
            with a teacher, the encoder of iteration 1.
        layer: the layer of the encoder that makes the labels of the recipe's own configuration, from 1, instead of that which
            the configuration names.
        clusters: size of that codebook.
        noise_corpus: noise corpus, instead of those that the configurations name.
        tag: prefix of the names of label sets, so that two runs can label one corpus.
        memory_gib: memory for the features of k-means; None for a quarter of the machine's.
        jobs: processes for codebook and labels; None for one per GPU (layers) or core (MFCC).
        until: name of the last stage to run; None for all.
        adopt: continue in a folder where commands of the recipe were run by hand.
        dry_run: only print the commands that would run now.

    Returns:
        Folder of the exported encoder; None if it was not exported because of `until` or `dry_run`.

    Raises:
        UserError: a wrong option or layer, also of a later stage; a missing corpus, a folder or labels of another run, a recipe
            that runs in this folder already, or a stage that failed.

    Example:
        >>> run_recipe("wavlm_base", Path("data/librispeech960"), Path("runs/base"), ["--trainer.devices", "8"])
    """
    if not dry_run:
        check_output(out)
    configurations = chain(recipe)
    if checkpoint:
        configurations = continued_from(configurations, checkpoint)
    configurations = with_codebook(configurations, layer, clusters)
    run = RecipeRun(
        configurations,
        corpus,
        out,
        corpus_of or {},
        labelled,
        noise_corpus,
        tag,
        memory_gib,
        jobs,
        option_groups(options),
    )
    stages = _until(run.stages, until)
    check_stages(run, stages)
    if dry_run:
        _print_commands(run, stages)
        return None
    names = {stage.name for stage in stages}
    for each in run.fine_tunings:  # months before their turn comes
        if names & {f"fit/{each.name}", f"fit/{each.name}-fold1"}:
            Corpus.open(run.labelled_corpus(each))
    for each in run.teachers:
        Corpus.open(run.labelled_corpus(each))
    check_language_models(run)
    with own_folder(out, "recipe"):
        ledger = _open_ledger(run, stages, adopt)
        for number, stage in enumerate(stages, start=1):
            ledger.run(_of_ledger(stage), number, len(stages))
    return out / ENCODER if any(stage.name == "export" for stage in stages) else None


def _until(stages: list[RecipeStage], name: str | None) -> list[RecipeStage]:
    names = [stage.name for stage in stages]
    if name is None:
        return stages
    if name not in names:
        raise UserError(f"--until {name}: no such stage; this recipe has {', '.join(names)}")
    return stages[: names.index(name) + 1]


def _of_ledger(stage: RecipeStage) -> Stage:
    return Stage(stage.name, partial(_run_stage, stage), stage.facts)


def _open_ledger(run: RecipeRun, stages: Sequence[RecipeStage], adopt: bool = False) -> Ledger:
    """The ledger in the output folder; `adopt` accepts one with products of stages, each stage checks what it finds."""
    path = run.out / LEDGER
    corpora = [Corpus.open(run.corpus_for(each)) for each in run.chain]
    noise = [Corpus.open(each) for each in run.noise_corpora()]
    # A wrong option, which a fit refuses in its first second, must not cost the codebook and the labels before it.
    begun = any(stage.has_checkpoint for stage in run.stages)
    ledger = Ledger(
        path,
        _settings(run, corpora, noise),
        "recipe",
        newer=["fine-tuning", "files", "shards"],
        used_by={} if begun else {"options of fit": "fit/"},
    )
    ledger.compare([_of_ledger(stage) for stage in stages])
    if path.is_file() or adopt:
        return ledger
    if run.out.is_dir() and any(path.name != LOCK for path in run.out.iterdir()):
        raise UserError(
            f"{run.out} is not empty and holds no {LEDGER}; choose another --out, or give --adopt if commands of this "
            "recipe were run there by hand"
        )
    for each, corpus in zip(run.chain, corpora, strict=True):
        codebook, name = each.recipe.codebook, str(run.label_set(each))
        # Labels of MFCC may be shared: the same codebook gives the same labels, and `codebook apply` refuses another.
        if codebook is None or (codebook.layer is None and codebook.teacher is None):
            continue
        for folder in (corpus.directory / "labels" / name, corpus.directory / "alignments" / name):
            if folder.is_dir():
                raise UserError(
                    f"{folder}: another run has labelled this corpus under that name; give --tag WORD for other names"
                )
    return ledger


def _settings(run: RecipeRun, corpora: Sequence[Corpus], noise: Sequence[Corpus]) -> dict[str, Any]:
    """Everything that the weights depend on."""

    settings: dict[str, Any] = {
        "configurations": {each.name: short_hash(_of_pretraining(each)) for each in run.chain},
        "corpora": [each.sha256 for each in corpora],
        "noise": [each.sha256 for each in noise],
        "tag": run.tag,
        "options of fit": lasting(run.options),
    }
    if run.teachers:
        settings["teachers"] = {
            each.name: [short_hash({**each.content, "average": each.recipe.average}), corpus.sha256]
            for each in run.teachers
            for corpus in [Corpus.open(run.labelled_corpus(each))]
        }
    given = [each.recipe.codebook for each in run.chain if each.recipe.codebook is not None]
    models = [each.language_model.file for each in given if each.language_model is not None]
    named = [str(path) for path in (*(each.checkpoint for each in given), *models) if path is not None]
    if files := files_named(named):
        settings["files"] = files
    if shards := shards_named(named):
        settings["shards"] = shards
    tuned = {each.name: short_hash({**each.content, "how": _how(each.recipe)}) for each in run.fine_tunings}
    return {**settings, "fine-tuning": tuned} if tuned else settings


def _how(recipe: FineTuningRecipe) -> list[Any]:
    """What a recipe says of a fine-tuning, without what only `wavlm plan` reads."""
    how: list[Any] = [recipe.start_from, recipe.folds, recipe.average]
    if recipe.pseudo_labels is None:
        return how
    # Further rounds are fine-tunings of their own, each with its teacher and its share.
    pseudo = {key: value for key, value in asdict(recipe.pseudo_labels).items() if key not in ("rounds", "later_share")}
    return [*how, pseudo]


def _of_pretraining(configuration: Configuration) -> dict[str, Any]:
    """A configuration without what follows the pre-training."""
    recipe = {key: value for key, value in configuration.content["recipe"].items() if key != "fine_tuning"}
    return {**configuration.content, "recipe": recipe}


def _run_stage(stage: RecipeStage) -> None:
    if stage.product is not None and stage.product.is_file():
        print(f"  {stage.product}: exists already")
        return
    if stage.run_folder is not None:
        resumption(stage.run_folder)
    wavlm(*stage.words())


def _print_commands(run: RecipeRun, stages: Sequence[RecipeStage]) -> None:
    ledger = _open_ledger(run, stages) if (run.out / LEDGER).is_file() else None
    for number, stage in enumerate(stages, start=1):
        made = stage.product is not None and stage.product.is_file()
        done = ledger is not None and (ledger.is_done(stage.name) or made)
        print(f"# {number}/{len(stages)} {stage.name}: {'done before' if done else stage.headline}")
        if not done:
            print(f"wavlm {shlex.join(stage.words())}")
