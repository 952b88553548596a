"""An upstream that hears the answer of an enhancement network."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from wavlm_lightning.encoder import Layers
from wavlm_lightning.system.errors import UserError
from wavlm_lightning.tasks.components.front_end.network import FrontEnd
from wavlm_lightning.upstreams import Upstream


class EnhancedUpstream(Upstream):
    """Another upstream with a front-end before it. Gradients pass the frozen encoder to the front-end; its weights stay.

    Checkpoints hold the front-end, and the encoder only if that is trained too.

    Args:
        encoder: hears what the front-end makes; frozen with `differentiable: true`, or trained.
        front_end: from noisy waveforms to clean ones.
        fixed: keep the weights of the front-end.
        learning_rate: of the front-end; None for that of the head.

    Raises:
        UserError: a front-end is to be trained through an encoder that passes no gradients.

    Example:
        >>> EnhancedUpstream(WavLMUpstream("base", differentiable=True), ConvTasNet())
    """

    def __init__(
        self, encoder: Upstream, front_end: FrontEnd, fixed: bool = False, learning_rate: float | None = None
    ) -> None:
        super().__init__(frozen=False)
        if learning_rate is not None and learning_rate <= 0:
            raise UserError(
                f"model.front_end_learning_rate {learning_rate}: give a number above 0, or set model.front_end_frozen: true"
            )
        if encoder.frozen and not encoder.differentiable and not fixed:
            raise UserError(
                "model.front_end: the frozen encoder passes no gradients to it; set model.upstream.differentiable: true, or "
                "model.front_end_frozen: true"
            )
        if encoder.fine_tuning is not None and encoder.fine_tuning.from_update:
            raise UserError(
                "model.upstream.fine_tuning.from_update: while the encoder waits, no gradients reach model.front_end; set it "
                "to 0, or train in two runs with model.start_from"
            )
        self.fine_tuning = encoder.fine_tuning
        self.encoder, self.front_end, self.fixed = encoder, front_end, fixed
        self.front_end_rate = learning_rate
        self.label, self.random, self.labelled = encoder.label, encoder.random, encoder.labelled
        self.dim, self.num_layers, self.frame_rate = encoder.dim, encoder.num_layers, encoder.frame_rate
        self.shortest, self.first_centre = encoder.shortest, encoder.first_centre
        if fixed:
            front_end.requires_grad_(False)
        self.train()

    def layers(self, waveforms: Tensor, lengths: Tensor) -> Layers:
        return self.encoder(self.front_end(waveforms, lengths), lengths, self._keep)

    def train(self, mode: bool = True) -> EnhancedUpstream:
        """Set the mode; what is not trained stays in eval mode."""
        super().train(mode)  # a frozen encoder keeps its own
        if self.fixed:
            self.front_end.eval()
        return self

    def settings(self) -> str:
        return f"{type(self.encoder).__qualname__} {self.encoder.settings()} {self.front_end}"

    @property
    def from_source(self) -> tuple[str, ...]:
        return tuple(f"encoder.{beginning}" for beginning in self.encoder.from_source)

    def source_fingerprint(self) -> str:
        return self.encoder.source_fingerprint()

    def fingerprint(self) -> str:
        # That of the encoder, too: `describe` needs it in the first process alone, where sharded weights cannot be gathered.
        self.encoder.fingerprint()
        return super().fingerprint()

    def describe(self) -> dict[str, Any]:
        """That of the encoder, and the front-end's class and number of parameters."""
        count = sum(parameter.numel() for parameter in self.front_end.parameters())
        front_end = {"class": type(self.front_end).__name__, "parameters": count, "trained": not self.fixed}
        # A checkpoint tells the whole of the labels behind it, of which a frozen encoder has not learned.
        seen = {} if self.encoder.frozen or not self.labelled else {"labelled": [dict(each) for each in self.labelled]}
        return {**self.encoder.describe(), **seen, "front_end": front_end}

    def note_random(self, task: str) -> None:
        self.encoder.note_random(task)

    # A trained encoder takes part in training as it says.

    @property
    def waits(self) -> bool:
        return False  # the front-end never does, and the encoder sees to itself

    def begin_update(self, update: int, generator: torch.Generator) -> None:
        self.encoder.begin_update(update, generator)

    def parameter_groups(self, learning_rate: float, weight_decay: float = 0.0) -> list[dict[str, Any]]:
        """Those of the encoder and of the front-end."""
        found = self.encoder.parameter_groups(learning_rate, weight_decay)
        if self.fixed:
            return found
        parameters = list(self.front_end.parameters())
        parts = {"front_end": parameters}
        if weight_decay > 0:
            parts = {
                "front_end": [each for each in parameters if each.squeeze().ndim > 1],
                "front_end.vectors": [each for each in parameters if each.squeeze().ndim <= 1],
            }
        for name, some in parts.items():
            decay = 0.0 if name.endswith("vectors") else weight_decay
            rate = learning_rate if self.front_end_rate is None else self.front_end_rate
            found.append({"params": some, "lr": rate, "weight_decay": decay, "name": name})
        return found

    def blocks(self) -> list[nn.Module]:
        return [] if self.encoder.frozen else self.encoder.blocks()

    def checkpoint_entries(self, prefix: str = "upstream.") -> dict[str, Any]:
        """Those of a trained encoder, which others can use; a frozen one comes from its source."""
        return {} if self.encoder.frozen else self.encoder.checkpoint_entries(f"{prefix}encoder.")
