"""What `wavlm plan` assumes, and how it reads a configuration without making what that describes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wavlm_lightning.encoder import WavLMConfig
from wavlm_lightning.encoder.config import PRESETS
from wavlm_lightning.pretraining.flops import GPUS, Gpu
from wavlm_lightning.system.errors import UserError
from wavlm_lightning.workflows.recipe.chain import RecipeStage


@dataclass(frozen=True)
class Assumptions:
    """What a configuration does not know.

    Attributes:
        mfu: share of the GPU's peak that the run reaches.
        gpus: processes; None for those the configuration was written for.
        gpu: their kind; None for that the configuration was written for.
        hours: audio of the corpus; None for what the configuration was written for.
        memory_gib: for the features that k-means sees; a quarter of a machine of 256 GiB, as `wavlm codebook fit` takes a
            quarter of the one it runs on (the plan must not depend on the machine that prints it).
    """

    mfu: float = 0.25
    gpus: int | None = None
    gpu: str | None = None
    hours: float | None = None
    memory_gib: float = 64.0


def find_hardware(stage: RecipeStage, assumptions: Assumptions) -> tuple[str, Gpu | None]:
    """The kind of GPU, and what is known of it; None for `cpu`.

    Raises:
        UserError: it is not in the table.
    """
    name = (assumptions.gpu or stage.recipe.gpu).lower()
    if name != "cpu" and name not in GPUS:
        where = "--gpu" if assumptions.gpu else f"{stage.path}: recipe.gpu"
        raise UserError(f"{where} {name}: its peak is not known here; take one of {', '.join(GPUS)} or cpu")
    return name, GPUS.get(name)


def section(stage: RecipeStage, *keys: str) -> Mapping[str, Any]:
    """A section of a configuration; empty if it is not there."""
    values: Any = stage.content
    for key in keys:
        values = values.get(key) if isinstance(values, Mapping) else None
    return values if isinstance(values, Mapping) else {}


def number(stage: RecipeStage, values: Mapping[str, Any], key: str, where: str, default: float | None = None) -> float:
    """A number above 0 in a section.

    Args:
        stage: the configuration.
        values: the section.
        key: in it.
        where: the section's name, for the message.
        default: if the key is not there; None if it must be.

    Raises:
        UserError: it is missing, or something else.
    """
    value = values.get(key, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or value <= 0:
        raise UserError(f"{stage.path}: {where}.{key} must be a number above 0, not {value!r}")
    return value


def encoder_shape(source: str, overrides: dict[str, Any], where: str) -> tuple[WavLMConfig, str | None]:
    """The shape of an encoder.

    Args:
        source: a preset or checkpoint.
        overrides: fields to change.
        where: who names it, for messages.

    Returns:
        The shape; and a remark if the checkpoint is not here, so that the shape is a guess.

    Raises:
        UserError: the overrides contradict it, or the checkpoint is none.
    """
    remark = None
    if source not in PRESETS:
        if Path(source).exists():
            from wavlm_lightning.upstreams.wavlm import load_encoder

            return load_encoder(source, overrides).config, None
        source, remark = "base", f"{source} is not here, so it was counted as Base"
    try:
        return WavLMConfig.preset(source, **overrides), remark
    except (TypeError, ValueError) as error:
        raise UserError(f"{where} {source}: {error}") from error
