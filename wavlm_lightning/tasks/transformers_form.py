"""What a head says about its like in the transformers library, so that `tasks.huggingface.export` asks no class names."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

# Suffixes of the classes of transformers that have a head.
CLASSIFICATION, VERIFICATION = "ForSequenceClassification", "ForXVector"
FRAMES, CTC = "ForAudioFrameClassification", "ForCTC"


def same(name: str, value: Tensor) -> tuple[str, Tensor]:
    """A tensor of a head that has the same name and layout in transformers."""
    return name, value


@dataclass(frozen=True)
class TransformersForm:
    """A head as a class of the transformers library.

    Attributes:
        kind: suffix of the class, such as `ForCTC`.
        labels: the name of each output.
        config: further values of `config.json`.
        own: what `wavlm predict` needs to know and transformers does not; kept in a section of its own.
        rename: our name and value of a tensor of the head -> those of transformers.
    """

    kind: str
    labels: list[str]
    config: dict[str, Any] = field(default_factory=dict)
    own: dict[str, Any] = field(default_factory=dict)
    rename: Callable[[str, Tensor], tuple[str, Tensor]] = same
