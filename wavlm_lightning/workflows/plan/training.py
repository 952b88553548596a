"""The cost of one pre-training run: memory, operations, hours."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from jsonargparse import ArgumentError

from wavlm_lightning.augment.span_masking import SpanMasking
from wavlm_lightning.encoder import WavLMConfig
from wavlm_lightning.encoder.config import SAMPLE_RATE
from wavlm_lightning.pretraining import MaskedCopies, PretrainingData, WavLMPretraining, objectives
from wavlm_lightning.pretraining.flops import StepFlops, encoder_flops
from wavlm_lightning.pretraining.memory import COMPUTE_BYTES, StepMemory, parameter_count, step_memory
from wavlm_lightning.pretraining.module import PLAIN
from wavlm_lightning.pretraining.objectives import Objective, ObjectiveCost, PassCost
from wavlm_lightning.pretraining.updates import check_whole
from wavlm_lightning.system.errors import UserError
from wavlm_lightning.training.muon import Muon, newton_schulz_flops, shapes
from wavlm_lightning.workflows.plan.assumptions import (
    Assumptions,
    default,
    find_hardware,
    number,
    parsed,
    section,
    settings,
)
from wavlm_lightning.workflows.plan.growing import mean_flops, run_sizes
from wavlm_lightning.workflows.recipe.chain import Configuration

PHONES = 71  # LibriSpeech's phones with stress and pauses; the codewords hardly matter for the cost


@dataclass(frozen=True)
class PreTraining:
    """Cost of one run of `wavlm fit`."""

    parameters: int  # of encoder and objectives
    gpus: int  # number of processes
    gpu: str
    batch_seconds: float  # audio of a micro-step in each process
    accumulation: float  # micro-steps per update; a fraction if no whole number keeps the audio of an update
    update_seconds: float  # audio of an update, at most: crops rarely fill a batch to the last second
    updates: int
    epochs: float
    flops: float
    memory: StepMemory  # of the first process
    fits: dict[int, bool]  # memory of a variant of this GPU in 10^9 bytes -> whether the run fits; empty without a GPU
    gpu_hours: float | None  # sum over all GPUs; None without a GPU
    wall_hours: float | None  # None without a GPU
    remarks: tuple[str, ...]  # sentences about anything unusual


def training_cost(
    stage: Configuration, config: WavLMConfig, hours: float, assumptions: Assumptions, remark: str | None
) -> PreTraining:
    """The cost of a run over `hours` of audio; its remarks begin with `remark`, which is about the encoder."""
    data, trainer = section(stage, "data", "init_args"), section(stage, "trainer")
    batch_seconds = number(stage, data, "batch_seconds", "data", default(PretrainingData, "batch_seconds"))
    crop_seconds = number(stage, data, "max_seconds", "data", default(PretrainingData, "max_seconds"))
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
        remarks.append("fp32 reaches only a fraction of the peak assumed here, which is that of half precision")

    crop_seconds = min(crop_seconds, batch_seconds)
    crops, samples = batch_seconds / crop_seconds, round(crop_seconds * SAMPLE_RATE)
    frames = crops * config.frames(samples)
    copies = read_copies(stage)
    share = copies.masked_share(_read_masking(stage), crops, config.frames(samples))
    head, unknown = objectives_cost(stage, config, frames, COMPUTE_BYTES.get(precision, 4))
    if unknown:
        remarks.append(f"without the cost of {', '.join(unknown)}, which is not known here")
    if others := label_names(stage)[1:]:
        remarks.append(
            f"without the cost of making the labels {', '.join(others)}: a recipe makes those of its codebook"
        )
    model, sharded = section(stage, "model", "init_args"), _sharded(trainer.get("strategy"))
    muon: Muon | None = settings(stage, "model.muon", Muon)
    if sharded:
        check_whole(str(stage.path), model)
    memory_of = partial(
        step_memory,
        config,
        crops,
        samples,
        precision,
        device="cpu" if gpu is None else "cuda",
        processes=gpus,
        sharded=sharded,
        checkpointed=model.get("activation_checkpointing") is True,
        head_parameters=head.parameters,
        teacher_parameters=sum(each.teacher_parameters for each in head.passes),
        muon_parameters=0 if muon is None else sum(rows * columns for rows, columns in shapes(config)),
        averaged=model.get("average") is not None,
    )
    copied = partial(memory_of, copies=copies.copies, visible=1.0 - share if copies.visible_only else None)
    more = sum(passes_bytes(copied() if each.masked else memory_of(), [each]) for each in head.passes)
    memory = copied(head_bytes=head.kept + more)
    grown = run_sizes(stage, batch_seconds, crop_seconds, updates)
    encoder, head = mean_flops(
        [(size.share, *_flops(stage, config, size.batch_seconds, size.crop_seconds)) for size in grown.sizes], head
    )
    remarks += grown.remarks(written_for)
    main = copies.flops(encoder, share)
    micro_step = replace(main, objectives=head.flops).training
    micro_step += sum(passes_flops(main if each.masked else encoder, [each]) for each in head.passes)
    flops = micro_step * written_for * updates
    if muon is not None:  # each process makes the whole update
        flops += newton_schulz_flops(config, muon.newton_schulz_steps) * gpus * updates
    gpu_hours = None if gpu is None else flops / (gpu.peak * assumptions.mfu) / 3600
    return PreTraining(
        parameters=parameter_count(config) + head.parameters,
        gpus=gpus,
        gpu=name,
        batch_seconds=batch_seconds,
        accumulation=accumulation,
        update_seconds=batch_seconds * written_for,
        updates=updates,
        epochs=updates * grown.mean_seconds * written_for / (hours * 3600),
        flops=flops,
        memory=memory,
        fits={} if gpu is None else {size: memory.fits(size) for size in gpu.memory_gb},
        gpu_hours=gpu_hours,
        wall_hours=None if gpu_hours is None else gpu_hours / gpus,
        remarks=tuple(remarks),
    )


def _flops(
    stage: Configuration, config: WavLMConfig, batch_seconds: float, crop_seconds: float
) -> tuple[StepFlops, float]:
    """Operations of a micro-step in the encoder and, forward, in the objectives."""
    crops, samples = batch_seconds / crop_seconds, round(crop_seconds * SAMPLE_RATE)
    head, _ = objectives_cost(stage, config, crops * config.frames(samples), 4)
    return encoder_flops(config, crops, samples), head.flops


def passes_flops(encoder: StepFlops, passes: Sequence[PassCost]) -> float:
    """Operations of further passes in a micro-step, from those of the main pass."""
    total = 0.0
    for each in passes:
        parts = encoder if each.convolutions else replace(encoder, front_end=0.0, front_end_backward=0.0)
        total += parts.training if each.gradients else parts.forward
    return total


def passes_bytes(main: StepMemory, passes: Sequence[PassCost]) -> float:
    """Bytes of the activations that further passes keep for the backward pass, from those of the main pass."""
    return sum(
        main.layers + main.projection + (main.front_end if each.convolutions else 0)
        for each in passes
        if each.gradients
    )


def objectives_cost(
    stage: Configuration, config: WavLMConfig, frames: float, compute_bytes: int
) -> tuple[ObjectiveCost, list[str]]:
    """The cost of all objectives in a micro-step, and the class names of those whose cost is unknown.

    `frames` is the length of the micro-step, `compute_bytes` the size of a number in matrix products. Decoders of masked copies
    are included.
    """
    model = section(stage, "model", "init_args")
    labels = (stage.recipe.codebook.clusters or PHONES) if stage.recipe.codebook else 0
    copies, share, names = read_copies(stage), _read_masking(stage).expected_share(), label_names(stage)
    unknown: list[str] = []
    parts: list[ObjectiveCost] = []
    read: set[int] = set()
    for entry in model.get("objectives") or objectives.published():
        objective = entry if isinstance(entry, Objective) else _read_objective(entry, stage)
        size = stage.recipe.label_sizes.get(str(objective.label_set_of(names)), labels) if objective is not None else 0
        rows = frames if objective is not None and objective.per_crop else frames * copies.copies
        cost = objective.cost(config, size, rows, rows * share, compute_bytes) if objective is not None else None
        read.update(() if objective is None else objective.layers(config.layers))
        if cost is None:
            unknown.append(_class_path(entry).rpartition(".")[2])
        else:
            parts.append(cost)
    parts.append(copies.decoder_cost(config, frames, max(len(read), 1), compute_bytes))
    total = ObjectiveCost(
        sum(part.parameters for part in parts),
        sum(part.flops for part in parts),
        sum(part.kept for part in parts),
        tuple(each for part in parts for each in part.passes),
    )
    return total, unknown


def read_copies(stage: Configuration) -> MaskedCopies:
    """The masked copies of a configuration, `model.copies`."""
    return settings(stage, "model.copies", MaskedCopies, PLAIN)


def label_names(stage: Configuration) -> list[str]:
    """The label sets of a configuration, in their order."""
    named = section(stage, "data", "init_args").get("labels")
    return [str(name) for name in named] if isinstance(named, list) else [str(named)] if named else []


def _read_masking(stage: Configuration) -> SpanMasking:
    """`model.masking` of a configuration."""
    return settings(stage, "model.masking", SpanMasking, default(WavLMPretraining, "masking"))


def _class_path(entry: Any) -> str:
    return str(entry.get("class_path") if isinstance(entry, Mapping) else entry)


def _read_objective(entry: Any, stage: Configuration) -> Objective | None:
    """The objective that an entry of the YAML describes; None if its class cannot be imported here."""
    try:
        return parsed(Objective, "objective", entry)
    except (ArgumentError, ValueError) as error:
        module, _, name = _class_path(entry).rpartition(".")
        if module.partition(".")[0] not in ("", "wavlm_lightning") or not hasattr(objectives, name):
            return None
        reason = " ".join(str(error).split())
        raise UserError(f"{stage.path}: model.objectives: {name}: {reason}") from error


def _sharded(strategy: object) -> bool:
    """Whether `trainer.strategy`, a name or a class with its arguments, is FSDP2."""
    name = strategy.get("class_path") if isinstance(strategy, Mapping) else strategy
    return str(name).rpartition(".")[2].lower() == "fsdp2"
