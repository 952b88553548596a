"""What a recipe costs, configuration by configuration."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from wavlm_lightning.encoder import WavLMConfig
from wavlm_lightning.pretraining.memory import parameter_count
from wavlm_lightning.workflows.plan.assumptions import Assumptions, encoder_shape, section
from wavlm_lightning.workflows.plan.labels import Labelling, labelling_cost
from wavlm_lightning.workflows.plan.training import PreTraining, training_cost
from wavlm_lightning.workflows.recipe.chain import RecipeStage


@dataclass(frozen=True)
class StagePlan:
    """Labels and pre-training of one configuration.

    Attributes:
        name: of the configuration.
        hours: audio of its corpus.
        labelling: None if it needs no labels.
        training: the run.
        export_bytes: size of the exported encoder.
    """

    name: str
    hours: float
    labelling: Labelling | None
    training: PreTraining
    export_bytes: int


def plan(stages: Sequence[RecipeStage], assumptions: Assumptions) -> list[StagePlan]:
    """The cost of a chain of configurations.

    Args:
        stages: see `recipes.chain`.
        assumptions: what they leave open; `hours` is for the last configuration, and for those that were written for the
            same corpus size as that.

    Raises:
        UserError: a configuration lacks a value, or names an encoder, GPU or precision that is not known.
    """
    plans: list[StagePlan] = []
    before: WavLMConfig | None = None
    for stage in stages:
        hours = stage.recipe.hours
        if assumptions.hours is not None and hours == stages[-1].recipe.hours:
            hours = assumptions.hours
        model = section(stage, "model", "init_args")
        overrides = dict(model.get("encoder_overrides") or {})
        config, remark = encoder_shape(str(model.get("encoder", "base")), overrides, f"{stage.path}: model.encoder")
        training = training_cost(stage, config, hours, assumptions, remark)
        labelling = labelling_cost(stage, before, hours, assumptions)
        plans.append(StagePlan(stage.name, hours, labelling, training, 4 * parameter_count(config)))
        before = config
    return plans
