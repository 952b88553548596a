"""The cost of the fine-tunings of a recipe: the encoder's passes in every update; heads and tests are not counted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from wavlm_lightning.encoder import WavLMConfig
from wavlm_lightning.encoder.config import SAMPLE_RATE
from wavlm_lightning.pretraining import WavLMPretraining
from wavlm_lightning.pretraining.flops import encoder_flops
from wavlm_lightning.system.errors import UserError
from wavlm_lightning.tasks import TaskData
from wavlm_lightning.upstreams.fine_tuning import FineTuning
from wavlm_lightning.workflows.plan.assumptions import (
    Assumptions,
    default,
    encoder_shape,
    find_hardware,
    number,
    section,
)
from wavlm_lightning.workflows.plan.labels import UTTERANCE_SECONDS, Decoding, decoding_cost
from wavlm_lightning.workflows.recipe.chain import Configuration, FineTuned, chain, fine_tunings


@dataclass(frozen=True)
class FineTuningPlan:
    """Cost of one configuration of `recipe.fine_tuning`.

    Attributes:
        name: name of the configuration.
        runs: one, or one a fold.
        updates: of each run.
        head_updates: of these, those without gradients in the encoder.
        update_seconds: audio of an update.
        gpus: number of processes.
        gpu: kind of GPU, that of the pre-training.
        flops: of the encoder, all runs.
        gpu_hours: of all runs; None without a GPU.
        wall_hours: the same if one run follows the other; None without a GPU.
        decoding: cost of the pseudo-labels that it learns from; None if it has none.
    """

    name: str
    runs: int
    updates: int
    head_updates: int
    update_seconds: float
    gpus: int
    gpu: str
    flops: float
    gpu_hours: float | None
    wall_hours: float | None
    decoding: Decoding | None = None


def fine_tuning_plans(configuration: str, assumptions: Assumptions = Assumptions()) -> list[FineTuningPlan]:  # noqa: B008 - frozen
    """The cost of what a recipe fine-tunes its encoder for, in order; `assumptions` give the share of the peak and the GPU.

    Raises:
        UserError: a configuration lacks the number of its updates or the size of its batches.

    Example:
        >>> [each.name for each in fine_tuning_plans("wavlm_base")]
        []
    """
    stage = chain(configuration)[-1]
    if not stage.recipe.fine_tuning:
        return []
    model = section(stage, "model", "init_args")
    source = str(model.get("encoder", default(WavLMPretraining, "encoder")))
    config, _ = encoder_shape(source, dict(model.get("encoder_overrides") or {}), f"{stage.path}: model.encoder")
    hours, plans = assumptions.hours or stage.recipe.hours, []
    for task in fine_tunings(stage):
        pseudo = task.recipe.pseudo_labels
        decoding = None
        if pseudo is not None:
            decoding = decoding_cost(stage, config, hours, pseudo.language_model is not None, assumptions)
        plans.append(replace(tuning_cost(task, stage, config, assumptions), decoding=decoding))
    return plans


def tuning_cost(task: FineTuned, stage: Configuration, config: WavLMConfig, assumptions: Assumptions) -> FineTuningPlan:
    """The cost of the training of one fine-tuning of an encoder, on the GPUs of the configuration `stage`."""
    name, gpu = find_hardware(stage, assumptions)
    updates = int(number(task, section(task, "trainer"), "max_steps", "trainer"))
    head, flops, seconds = _passes(task, config, updates)
    gpus, runs = task.recipe.gpus, task.recipe.folds or 1
    steps = gpus * int(number(task, section(task, "trainer"), "accumulate_grad_batches", "trainer", 1))
    flops *= steps * runs
    hours = None if gpu is None else flops / (gpu.peak * assumptions.mfu) / 3600
    wall = None if hours is None else hours / gpus
    return FineTuningPlan(task.name, runs, updates, head, seconds * steps, gpus, name, flops, hours, wall)


def _passes(task: FineTuned, config: WavLMConfig, updates: int) -> tuple[int, float, float]:
    """Updates of the head alone, operations of one micro-step of every update together, and the audio of a micro-step."""
    utterances, seconds = _batch(task)
    upstream: Mapping[str, Any] = section(task, "model", "init_args", "upstream", "init_args")
    tuning: Any = upstream.get("fine_tuning") or {}
    step = encoder_flops(config, utterances, round(seconds / utterances * SAMPLE_RATE))
    trained = replace(
        step,
        front_end_backward=step.front_end_backward if tuning.get("convolutions") else 0.0,
        layer_drop=tuning.get("layer_drop", default(FineTuning, "layer_drop")),
    )
    if upstream.get("frozen", True):
        return updates, step.forward * updates, seconds
    head = min(updates, tuning.get("from_update", default(FineTuning, "from_update")))
    return head, step.forward * head + trained.training * (updates - head), seconds


def _batch(task: FineTuned) -> tuple[float, float]:
    """Utterances and seconds of audio of a micro-step."""
    data = section(task, "data", "init_args")
    length, crop = task.recipe.utterance_seconds, data.get("max_seconds")
    if crop is not None:
        length = min(number(task, data, "max_seconds", "data"), length or float("inf"))
    batch_seconds, batch_size = data.get("batch_seconds"), data.get("batch_size", default(TaskData, "batch_size"))
    if batch_seconds is None and length is None:
        raise UserError(
            f"{task.path}: data.batch_size counts utterances, whose length the plan does not know; set utterance_seconds beside "
            f"{task.name} in recipe.fine_tuning"
        )
    length = length or UTTERANCE_SECONDS
    limits = []
    if batch_seconds is not None:
        limits.append(number(task, data, "batch_seconds", "data"))
    if batch_size is not None:
        limits.append(number(task, data, "batch_size", "data", batch_size) * length)
    if not limits:
        raise UserError(f"{task.path}: give data.batch_size or data.batch_seconds, from which the plan counts")
    seconds = min(limits)
    return seconds / length, seconds
