"""Select layers of an upstream, to measure which of them are useful for a task."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from wavlm_lightning.encoder import Layers
from wavlm_lightning.system.errors import UserError
from wavlm_lightning.upstreams.base import Upstream


def numbered(layers: Sequence[int], count: int, label: str) -> list[int]:
    """The layers counted from 0, of an upstream with `count` layers; a `UserError` if one does not exist or occurs twice."""
    chosen = [layer % count for layer in layers if -count <= layer < count]
    if not layers or len(set(chosen)) != len(layers):
        raise UserError(
            f"upstream.layers: {list(layers)}: give some of the {count} layers of {label}, each once, as 0 to "
            f"{count - 1} or -{count} to -1"
        )
    return chosen


class ChosenLayers(Upstream):
    """An upstream with a selection of another one's layers; with a single layer the weighted sum has no weights.

    Args:
        upstream: the upstream to select from, which says whether it is frozen and how it is trained. All of its layers run,
            also those above the selected ones.
        layers: numbers of the layers; 0 is the input of the first transformer layer, -1 the output of the last.

    Raises:
        UserError: a layer does not exist or occurs twice.

    Example:
        >>> ChosenLayers(WavLMUpstream("base"), [6])
    """

    def __init__(self, upstream: Upstream, layers: Sequence[int]) -> None:
        super().__init__(upstream.frozen, upstream.differentiable)
        self.fine_tuning = upstream.fine_tuning
        self.upstream, self.labelled = upstream, upstream.labelled
        self.chosen = numbered(layers, upstream.num_layers, upstream.label)
        self.label = f"{upstream.label}, layer{'s' if len(layers) > 1 else ''} {', '.join(map(str, self.chosen))}"
        self.dim, self.num_layers, self.frame_rate = upstream.dim, len(self.chosen), upstream.frame_rate
        self.shortest, self.random, self.first_centre = upstream.shortest, upstream.random, upstream.first_centre
        self.train(self.trained)

    def layers(self, waveforms: Tensor, lengths: Tensor) -> Layers:
        found = self.upstream(waveforms, lengths)
        return replace(found, hidden=found.hidden[self.chosen])

    def settings(self) -> str:
        return f"{self.chosen} {type(self.upstream).__qualname__} {self.upstream.settings()}"

    # It takes part in training as the other one says.

    @property
    def waits(self) -> bool:
        return self.upstream.waits

    def begin_update(self, update: int, generator: torch.Generator) -> None:
        self.upstream.begin_update(update, generator)

    def parameter_groups(self, learning_rate: float, weight_decay: float = 0.0) -> list[dict[str, Any]]:
        return self.upstream.parameter_groups(learning_rate, weight_decay)

    def blocks(self) -> list[nn.Module]:
        return self.upstream.blocks()

    def checkpoint_entries(self, prefix: str = "upstream.") -> dict[str, Any]:
        """Those of the other one, which is the encoder that others can use."""
        return self.upstream.checkpoint_entries(f"{prefix}upstream.")
