"""What a run of pre-training costs."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

from wavlm_lightning.encoder import WavLMConfig
from wavlm_lightning.encoder.config import SAMPLE_RATE
from wavlm_lightning.pretraining.flops import encoder_flops
from wavlm_lightning.pretraining.memory import COMPUTE_BYTES, StepMemory, parameter_count, step_memory
from wavlm_lightning.workflows.plan.assumptions import Assumptions, find_hardware, number, section
from wavlm_lightning.workflows.plan.heads import head_cost
from wavlm_lightning.workflows.recipe.chain import RecipeStage


@dataclass(frozen=True)
class PreTraining:
    """One run of `wavlm fit`.

    Attributes:
        parameters: of encoder and objectives.
        gpus: processes.
        gpu: their kind.
        batch_seconds: audio of a micro-step in each process.
        accumulation: micro-steps of an update; with fractions where no whole number keeps the audio of an update.
        update_seconds: audio of an update, at most: crops rarely fill a batch to the last second.
        updates: of the run.
        epochs: passes over the corpus.
        flops: operations of the run.
        memory: of the first process.
        fits: whether that is within each GPU of this kind, by its memory in 10^9 bytes; empty without a GPU.
        gpu_hours: all GPUs together; None without a GPU.
        wall_hours: of the run.
        remarks: sentences about what is odd.
    """

    parameters: int
    gpus: int
    gpu: str
    batch_seconds: float
    accumulation: float
    update_seconds: float
    updates: int
    epochs: float
    flops: float
    memory: StepMemory
    fits: dict[int, bool]
    gpu_hours: float | None
    wall_hours: float | None
    remarks: tuple[str, ...]


def training_cost(
    stage: RecipeStage, config: WavLMConfig, hours: float, assumptions: Assumptions, remark: str | None
) -> PreTraining:
    """The cost of a run.

    Args:
        stage: its configuration.
        config: shape of its encoder.
        hours: audio of its corpus.
        assumptions: see `Assumptions`.
        remark: about the encoder, or None.

    Raises:
        UserError: a number is missing, or GPU or precision are not known.
    """
    data, trainer = section(stage, "data", "init_args"), section(stage, "trainer")
    batch_seconds = number(stage, data, "batch_seconds", "data", 87.5)
    crop_seconds = number(stage, data, "max_seconds", "data", 15.625)
    updates = int(number(stage, trainer, "max_steps", "trainer"))
    precision = str(trainer.get("precision", "32-true"))
    written_for = stage.recipe.gpus * int(number(stage, trainer, "accumulate_grad_batches", "trainer", 1))
    gpus = assumptions.gpus or stage.recipe.gpus
    name, gpu = find_hardware(stage, assumptions)
    remarks = [remark] if remark else []

    accumulation = written_for / gpus
    if accumulation != int(accumulation):
        whole = math.ceil(accumulation)
        remarks.append(
            f"no whole number of micro-steps on {gpus} GPUs makes {batch_seconds * written_for:,.10g} s an update: take "
            f"accumulate_grad_batches {whole} and batch_seconds {batch_seconds * accumulation / whole:.4g}"
        )
    elif gpus != stage.recipe.gpus:
        remarks.append(
            f"written for {stage.recipe.gpus} GPUs: accumulate_grad_batches {int(accumulation)} keeps the audio of an update"
        )
    if precision.startswith("bf16") and gpu is not None and not gpu.precision.startswith("bf16"):
        remarks.append(f"{name} has no bf16: take --trainer.precision {gpu.precision}")
    if precision.startswith("32") and gpu is not None:
        remarks.append("fp32 reaches a fraction of the peak counted with, which is that of half precision")

    crop_seconds = min(crop_seconds, batch_seconds)
    crops, samples = batch_seconds / crop_seconds, round(crop_seconds * SAMPLE_RATE)
    frames = crops * config.frames(samples)
    labels = stage.recipe.codebook.clusters if stage.recipe.codebook else 0
    model = section(stage, "model", "init_args")
    head = head_cost(model, config, labels, frames, COMPUTE_BYTES.get(precision, 4))
    if head.unknown:
        remarks.append(f"without the cost of {', '.join(head.unknown)}, which is not known here")
    memory = step_memory(
        config,
        crops,
        samples,
        precision,
        device="cpu" if gpu is None else "cuda",
        processes=gpus,
        sharded=_sharded(trainer.get("strategy")),
        checkpointed=model.get("activation_checkpointing") is True,
        head_parameters=head.parameters,
        head_bytes=head.kept,
    )
    micro_step = replace(encoder_flops(config, crops, samples), objectives=head.flops).training
    flops = micro_step * written_for * updates
    gpu_hours = None if gpu is None else flops / (gpu.peak * assumptions.mfu) / 3600
    return PreTraining(
        parameters=parameter_count(config) + head.parameters,
        gpus=gpus,
        gpu=name,
        batch_seconds=batch_seconds,
        accumulation=accumulation,
        update_seconds=batch_seconds * written_for,
        updates=updates,
        epochs=updates * batch_seconds * written_for / (hours * 3600),
        flops=flops,
        memory=memory,
        fits={} if gpu is None else {size: memory.fits(size) for size in gpu.memory_gb},
        gpu_hours=gpu_hours,
        wall_hours=None if gpu_hours is None else gpu_hours / gpus,
        remarks=tuple(remarks),
    )


def _sharded(strategy: object) -> bool:
    """Whether `trainer.strategy`, a name or a class with its arguments, is FSDP2."""
    name = strategy.get("class_path") if isinstance(strategy, Mapping) else strategy
    return str(name).rpartition(".")[2].lower() == "fsdp2"
