"""The cost of a pre-training recipe: labels and training of every configuration in its chain."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from wavlm_lightning.encoder import WavLMConfig
from wavlm_lightning.pretraining import WavLMPretraining
from wavlm_lightning.pretraining.memory import parameter_count
from wavlm_lightning.workflows.plan.assumptions import Assumptions, default, encoder_shape, section
from wavlm_lightning.workflows.plan.fine_tuning import FineTuningPlan, tuning_cost
from wavlm_lightning.workflows.plan.labels import Decoding, Labelling, earlier_encoder, labelling_cost
from wavlm_lightning.workflows.plan.training import PreTraining, training_cost
from wavlm_lightning.workflows.recipe.chain import chain, teacher


@dataclass(frozen=True)
class StagePlan:
    """Cost of the labels and the pre-training of one configuration.

    Attributes:
        name: name of the configuration.
        hours: audio of its corpus.
        labelling: cost of its labels; None if it needs none.
        training: cost of the run.
        export_bytes: size of the exported encoder.
        teacher: cost of the fine-tuning whose model makes the labels; None if there is none.
    """

    name: str
    hours: float
    labelling: Labelling | None
    training: PreTraining
    export_bytes: int
    teacher: FineTuningPlan | None = None


def plan(configuration: str, assumptions: Assumptions = Assumptions()) -> list[StagePlan]:  # noqa: B008 - frozen
    """The cost of a pre-training and of all configurations that it builds on, first stage first.

    Args:
        configuration: name of a file in `configs/pretrain` (`wavlm_base`), or a path ending in `.yaml`.
        assumptions: what the configurations leave open. `hours` applies to the last configuration, and to those written
            for the same corpus size.

    Raises:
        UserError: a configuration lacks a value, or names an unknown encoder, GPU or precision.

    Example:
        >>> [stage.training.updates for stage in plan("wavlm_base")]
        [250000, 400000]
    """
    stages, plans = chain(configuration), list[StagePlan]()
    before: WavLMConfig | None = None
    for stage in stages:
        hours = stage.recipe.hours
        if assumptions.hours is not None and hours == stages[-1].recipe.hours:
            hours = assumptions.hours
        model = section(stage, "model", "init_args")
        source = str(model.get("encoder", default(WavLMPretraining, "encoder")))
        where = f"{stage.path}: model.encoder"
        config, remark = encoder_shape(source, dict(model.get("encoder_overrides") or {}), where)
        training = training_cost(stage, config, hours, assumptions, remark)
        labelling = labelling_cost(stage, before, hours, assumptions)
        exported = 4 * parameter_count(config)  # in fp32
        task, encoder = teacher(stage), earlier_encoder(stage, before)
        tuned = None if task is None or encoder is None else tuning_cost(task, stage, encoder, assumptions)
        plans.append(StagePlan(stage.name, hours, labelling, training, exported, tuned))
        before = config
    return plans


def totals(plans: Sequence[StagePlan], tuned: Sequence[FineTuningPlan] = ()) -> dict[str, float | None]:
    """Sums over all stages, teachers and decodings: operations, GPU-hours, and hours if one stage follows the other.

    None without a GPU.
    """
    runs: list[PreTraining | FineTuningPlan] = [stage.training for stage in plans]
    runs += [*(stage.teacher for stage in plans if stage.teacher is not None), *tuned]
    flops = sum(run.flops for run in runs)
    gpu, wall = [run.gpu_hours for run in runs], [run.wall_hours for run in runs]
    passes: list[Labelling | Decoding] = [stage.labelling for stage in plans if stage.labelling is not None]
    passes += [each.decoding for each in tuned if each.decoding is not None]
    cpu = 0.0
    for each in passes:
        flops += each.flops
        cpu += each.cpu_hours
        gpu.append(each.gpu_hours)
        wall.append(each.gpu_hours)  # labelling is planned on one GPU
    return {"flops": flops, "cpu_hours": cpu, "gpu_hours": _sum(gpu), "wall_hours": _sum(wall)}


def _sum(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) if len(known) == len(values) else None
