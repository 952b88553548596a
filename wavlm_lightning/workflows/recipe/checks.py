"""Checks of all stages of a recipe before its first one: options of every `fit`, layers, splits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from wavlm_lightning.data.corpus import Corpus
from wavlm_lightning.encoder import WavLMConfig
from wavlm_lightning.encoder.checkpoints.huggingface import without_a_class
from wavlm_lightning.pretraining.recipe import CodebookRecipe, PseudoLabelRecipe
from wavlm_lightning.system.errors import UserError
from wavlm_lightning.upstreams.wavlm import preset_of
from wavlm_lightning.workflows.fit import read_options
from wavlm_lightning.workflows.fit.early_checks import layer_count
from wavlm_lightning.workflows.recipe.chain import Configuration
from wavlm_lightning.workflows.recipe.stage import RecipeStage
from wavlm_lightning.workflows.recipe.stages import RecipeRun


def check_stages(run: RecipeRun, stages: Sequence[RecipeStage]) -> None:
    """Read the options of every `fit`, and compare layers and splits with the encoders and corpora that are here.

    A corpus that is missing is the matter of the first stage; a dry run may print the commands for another machine.

    Raises:
        UserError: naming the stage or the configuration.
    """
    models: dict[str, Any] = {}
    for stage in stages:
        if stage.run_folder is None:
            continue
        try:
            config = read_options(*stage.command[1:])
        except UserError as error:
            raise UserError(f"{stage.name}: {error}") from error
        models[stage.name.removeprefix("fit/")] = config
    last = run.chain[-1].name
    if any(stage.name == "export" for stage in stages):
        _check_export(models[last], last, run.out)
    for each in run.chain:
        config = models.get(each.name)
        if config is not None and (run.corpus_for(each) / "corpus.json").is_file():
            _check_splits(Corpus.open(run.corpus_for(each)), config.data.init_args, f"fit/{each.name}")
        codebook = each.recipe.codebook
        if codebook is None or not isinstance(codebook.layer, int):
            continue
        if codebook.checkpoint is not None:
            encoder, count = codebook.checkpoint, layer_count(codebook.checkpoint, {})
        else:
            encoder = str(codebook.encoder)
            count = _layers_of(models.get(run.chain[run.chain.index(each) - 1].name))
        if count is not None and codebook.layer > count:
            raise UserError(
                f"{each.path}: recipe.codebook.layer is {codebook.layer}, but {encoder} has layers 0 to {count}; choose one of "
                "these"
            )


def _check_export(config: Any, name: str, out: Path) -> None:
    """Refuse to train for an export that cannot be made."""
    arguments = config.model.init_args.as_dict()
    preset = preset_of(str(arguments.get("encoder")))
    if preset is None:  # weights of another library, which have a class there
        return
    shape = WavLMConfig.preset(preset, **(arguments.get("encoder_overrides") or {}))
    if (reason := without_a_class(shape)) is not None:
        raise UserError(
            f"export: the encoder of {name} does not fit into the transformers library: {reason}; add --until fit/{name}, and "
            f"give the folder {out / name} wherever an encoder is wanted, or to `wavlm export --format torch`"
        )


def _layers_of(config: Any) -> int | None:
    """Transformer layers of the encoder that a `fit` trains."""
    arguments = None if config is None else config.model.init_args.as_dict()
    if arguments is None or not isinstance(arguments.get("encoder"), str):
        return None
    overrides = arguments.get("encoder_overrides") or {}
    return layer_count(arguments["encoder"], overrides if isinstance(overrides, Mapping) else {})


def _check_splits(corpus: Corpus, data: Any, stage: str) -> None:
    for key in ("train_split", "valid_split"):
        name = data.get(key)
        if isinstance(name, str) and name not in corpus.splits:
            raise UserError(
                f"{stage}: {corpus.directory} has no split {name!r}, which data.{key} names; it has {', '.join(corpus.splits)}"
            )


def check_language_models(run: RecipeRun) -> None:
    """Refuse a recipe whose language model is not here, before the stages that need it come.

    Raises:
        UserError: naming the configuration and the file.
    """
    recipes: list[tuple[Configuration, CodebookRecipe | PseudoLabelRecipe | None]] = [
        *((each, each.recipe.codebook) for each in run.chain),
        *((run.chain[-1], task.recipe.pseudo_labels) for task in run.fine_tunings),
    ]
    for stage, recipe in recipes:
        model = None if recipe is None else recipe.language_model
        if model is not None and model.file is not None and not Path(model.file).is_file():
            raise UserError(
                f"{stage.path}: recipe: language_model.file {model.file} does not exist; get it, or give order and units to "
                "count the labelled transcripts"
            )
