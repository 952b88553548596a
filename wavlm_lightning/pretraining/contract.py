"""What a data module serves to pre-training: a typed object, read once when a run begins."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import lightning.pytorch as pl

from wavlm_lightning.encoder import WavLMConfig
from wavlm_lightning.system.errors import UserError


@dataclass(frozen=True)
class PretrainingServed:
    """What `WavLMPretraining` must know of its data beside the batches.

    Attributes:
        codebooks: label set -> `size` and `sha256` of its codebook, `soft` where it has soft labels, in the order in which
            they were named.
        has_noise: whether batches contain noise clips.
        grid: the encoder configuration whose frames the labels are cut for.
    """

    codebooks: Mapping[str, dict[str, Any]]
    has_noise: bool = False
    grid: WavLMConfig = WavLMConfig()  # noqa: RUF009 - frozen


def served_to(trainer: pl.Trainer) -> PretrainingServed:
    """What the trainer's data module serves; the only place where pre-training meets it.

    Of a data module without `serve_pretraining`, such as older ones, the attributes `label_sets`, `has_noise` and `grid` say it.

    Raises:
        UserError: the trainer has no data module that serves pre-training.
    """
    source: Any = getattr(trainer, "datamodule", None)
    if hasattr(source, "serve_pretraining"):
        return source.serve_pretraining()
    if not hasattr(source, "label_sets"):
        raise UserError(
            f"pre-training: {type(source).__name__ if source else 'the trainer'} has no audio and labels for it; use "
            "PretrainingData"
        )
    codebooks = {name: labels.codebook() for name, labels in source.label_sets.items()}
    return PretrainingServed(codebooks, source.has_noise, source.grid)
