"""Some layers of an upstream, to see which of them know something."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from torch import Tensor

from wavlm_lightning.encoder import Layers
from wavlm_lightning.system.errors import UserError
from wavlm_lightning.upstreams.base import Upstream


class ChosenLayers(Upstream):
    """An upstream that shows some of its layers; a single one is what the head reads, with nothing to weigh.

    Args:
        upstream: whose layers.
        layers: which, from 0, the input of the first transformer layer; -1 is the last.

    Raises:
        UserError: there are not so many, or one is named twice.

    Example:
        >>> ChosenLayers(WavLMUpstream("base"), [6])
    """

    def __init__(self, upstream: Upstream, layers: Sequence[int]) -> None:
        super().__init__(upstream.frozen)
        self.upstream = upstream
        count = upstream.num_layers
        self.chosen = [layer % count for layer in layers if -count <= layer < count]
        if not layers or len(set(self.chosen)) != len(layers):
            raise UserError(
                f"upstream.layers: {list(layers)}: name some of the {count} layers of {upstream.label}, each once, as 0 to "
                f"{count - 1} or -{count} to -1"
            )
        self.label = f"{upstream.label}, layer{'s' if len(layers) > 1 else ''} {', '.join(map(str, self.chosen))}"
        self.dim, self.num_layers, self.frame_rate = upstream.dim, len(self.chosen), upstream.frame_rate
        self.freeze()

    def layers(self, waveforms: Tensor, lengths: Tensor) -> Layers:
        """The chosen ones, in the order in which they were named."""
        found = self.upstream(waveforms, lengths)
        return replace(found, hidden=found.hidden[self.chosen])

    def settings(self) -> str:
        """Which, and of what."""
        return f"{self.chosen} {type(self.upstream).__qualname__} {self.upstream.settings()}"
