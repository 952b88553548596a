"""What `wavlm plan` assumes, and how it reads a configuration without building the model."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentError, ArgumentParser

from wavlm_lightning.encoder import WavLMConfig
from wavlm_lightning.pretraining.flops import GPUS, Gpu
from wavlm_lightning.system.errors import UserError
from wavlm_lightning.upstreams.wavlm import load_encoder, preset_of
from wavlm_lightning.workflows.fit import yaml_loader  # noqa: F401 - bounds what the parser reads
from wavlm_lightning.workflows.recipe.chain import Configuration, FineTuned


@dataclass(frozen=True)
class Assumptions:
    """What a configuration does not say.

    Attributes:
        mfu: model FLOPs utilisation, the share of the GPU's peak that the run reaches.
        gpus: number of processes; None for that of the configuration.
        gpu: kind of GPU; None for that of the configuration.
        hours: audio of the corpus; None for that of the configuration.
        memory_gib: memory for the features that k-means sees. `wavlm codebook fit` takes a quarter of its machine; the
            plan must not depend on the machine that prints it, so the default is a quarter of 256 GiB.
    """

    mfu: float = 0.25
    gpus: int | None = None
    gpu: str | None = None
    hours: float | None = None
    memory_gib: float = 64.0


def find_hardware(stage: Configuration, assumptions: Assumptions) -> tuple[str, Gpu | None]:
    """Name and data of the GPU; None for `cpu`."""
    name = (assumptions.gpu or stage.recipe.gpu).lower()
    if name != "cpu" and name not in GPUS:
        where = "--gpu" if assumptions.gpu else f"{stage.path}: recipe.gpu"
        raise UserError(f"{where} {name}: the peak of this GPU is unknown here; take one of {', '.join(GPUS)} or cpu")
    return name, GPUS.get(name)


def default(kind: type, argument: str) -> Any:
    """The default of a constructor's argument, so that the plan does not repeat it."""
    return inspect.signature(kind).parameters[argument].default


def section(stage: Configuration | FineTuned, *keys: str) -> Mapping[str, Any]:
    """A section of a configuration; empty if the configuration lacks it."""
    values: Any = stage.content
    for key in keys:
        values = values.get(key) if isinstance(values, Mapping) else None
    return values if isinstance(values, Mapping) else {}


def number(
    stage: Configuration | FineTuned, values: Mapping[str, Any], key: str, where: str, missing: float | None = None
) -> float:
    """A number above 0 in a section named `where`; without the default `missing` it is required."""
    value = values.get(key, missing)
    if isinstance(value, bool) or not isinstance(value, int | float) or value <= 0:
        raise UserError(f"{stage.path}: {where}.{key} must be a number above 0, not {value!r}")
    return value


def parsed(kind: Any, name: str, entry: Any) -> Any:
    """An object of a class from its entry in a YAML, as `wavlm fit` reads it; `name` is for the errors of jsonargparse."""
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument(f"--{name}", type=kind)
    return parser.instantiate(parser.parse_object({name: entry}))[name]


def settings(stage: Configuration, key: str, kind: Any, missing: Any = None) -> Any:
    """What a configuration says under a key of two parts, such as `model.muon`; `missing` if it says nothing.

    Raises:
        UserError: naming the file and the key.
    """
    part, _, name = key.partition(".")
    entry = section(stage, part, "init_args").get(name)
    if entry is None:
        return missing
    try:
        return parsed(kind, name, entry)
    except (ArgumentError, ValueError, UserError) as error:
        said = " ".join(str(error).split())
        raise UserError(f"{stage.path}: {said if said.startswith(key) else f'{key}: {said}'}") from error


def encoder_shape(source: str, overrides: dict[str, Any], where: str) -> tuple[WavLMConfig, str | None]:
    """The shape of a preset or checkpoint, and a remark if the checkpoint is not here and the shape is a guess."""
    remark = None
    preset = preset_of(source)
    if preset is None and Path(source).exists():
        return load_encoder(source, overrides).config, None
    if preset is None:  # a plan must work on a machine without the weights
        preset, remark = "base", f"{source} is not here, so it was counted as Base"
    try:
        return WavLMConfig.preset(preset, **overrides), remark
    except (TypeError, ValueError) as error:
        raise UserError(f"{where} {source}: {error}") from error
